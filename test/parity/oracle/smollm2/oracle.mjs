// Asks llama.cpp what it makes of the GGUF: tokens, greedy continuations, log-probabilities. Run by hand, once:
// npm install node-llama-cpp@3.22.1 in a scratch folder, copy this file and inputs.json there, and run
// `node oracle.mjs MODEL.gguf > llama-cpp.json`. The same for llama-cpp-float32.json, on what to-float32.py wrote.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

// No dependency of this project, so that nothing looks for it here.
const peer = 'node-llama-cpp'
const { getLlama } = await import(peer)
const path = process.argv[2]
const { texts, prompts, passage } = JSON.parse(readFileSync(new URL('./inputs.json', import.meta.url), 'utf8'))
const CONTINUED = 32

const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error' })
const model = await llama.loadModel({ modelPath: path })
const context = await model.createContext({ contextSize: 2048, threads: 1, flashAttention: false })
const sequence = context.getSequence()

const tokenised = texts.map((text) => ({
  text,
  special: [...model.tokenize(text, true)],
}))

const continuations = []
for (const prompt of prompts) {
  await sequence.clearHistory()
  const ids = [...model.tokenize(prompt, true)]
  const made = []
  for await (const token of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
    made.push(token)
    if (made.length === CONTINUED) break
  }
  continuations.push({ prompt, ids, made })
  process.stderr.write('.')
}

await sequence.clearHistory()
const ids = [...model.tokenize(passage, false)]
const asked = ids.map((id) => [id, { generateNext: { probabilities: true } }])
const given = await sequence.controlledEvaluate(asked)
const logprobs = ids.slice(1).map((id, i) => Math.log(given[i].next.probabilities.get(id)))
const mass = [...given[3].next.probabilities.values()].reduce((sum, p) => sum + p, 0)
const perplexity = Math.exp(-logprobs.reduce((sum, p) => sum + p, 0) / logprobs.length)

const versions = {
  'node-llama-cpp': JSON.parse(readFileSync('node_modules/node-llama-cpp/package.json', 'utf8')).version,
  'llama.cpp': llama.llamaCppRelease.release,
}
const sha256 = createHash('sha256').update(readFileSync(path)).digest('hex')
process.stdout.write(
  `${JSON.stringify({ versions, sha256, tokenised, continuations, passage: { ids, logprobs: logprobs.map((p) => Number(p.toFixed(6))), perplexity, mass } })}\n`,
)
process.exit(0)
