// Tokens of llama.cpp for the texts of inputs.json under other pre-tokenizers: the model's own vocabulary and merges,
// `tokenizer.ggml.pre` rewritten (with gguf's own writer) to each name. `node pre-tokenizers.mjs FOLDER`, which holds
// pre-NAME.gguf, > pre-tokenizers.json; versions as in llama-cpp.json.
import { readFileSync } from 'node:fs'

// No dependency of this project, so that nothing looks for it here.
const peer = 'node-llama-cpp'
const { getLlama } = await import(peer)
const { texts } = JSON.parse(readFileSync(new URL('./inputs.json', import.meta.url), 'utf8'))
const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error' })
const found = {}
for (const pre of ['llama-bpe', 'qwen2', 'gpt-2', 'dbrx', 'default', 'refact']) {
  const model = await llama.loadModel({ modelPath: `${process.argv[2]}/pre-${pre}.gguf` })
  found[pre] = texts.map((text) => [...model.tokenize(text, true)])
  await model.dispose()
}
process.stdout.write(`${JSON.stringify(found)}\n`)
process.exit(0)
