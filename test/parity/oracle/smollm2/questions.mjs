// Asks llama.cpp the questions of questions.json, in one setting. Run by hand as oracle.mjs is:
// `node questions.mjs MODEL.gguf F16|F32 true|false` (type of the cache, flash attention); the answers of four runs are
// in questions-llama-cpp.json: F16 false, F32 false, F16 true, and F16 false on what to-float32.py wrote.
import { readFileSync } from 'node:fs'

// Not a dependency of this repository: a name that the import checks cannot follow.
const peer = 'node-llama-cpp'
const { getLlama } = await import(peer)
const [path, cache, flash] = process.argv.slice(2)
const questions = JSON.parse(readFileSync(new URL('./questions.json', import.meta.url), 'utf8'))
const SYSTEM = '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n'
const CONTINUED = 32

const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error' })
const model = await llama.loadModel({ modelPath: path })
const context = await model.createContext({
  contextSize: 2048,
  threads: 1,
  flashAttention: flash === 'true',
  experimentalKvCacheKeyType: cache,
  experimentalKvCacheValueType: cache,
})
const sequence = context.getSequence()
const continuations = []
for (const question of questions) {
  await sequence.clearHistory()
  const prompt = `${SYSTEM}<|im_start|>user\n${question}<|im_end|>\n<|im_start|>assistant\n`
  const ids = [...model.tokenize(prompt, true)]
  const made = []
  for await (const token of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
    made.push(token)
    if (made.length === CONTINUED) break
  }
  continuations.push({ ids, made })
}
process.stdout.write(`${JSON.stringify(continuations)}\n`)
process.exit(0)
