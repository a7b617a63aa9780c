// Asks llama.cpp what it makes of the tiny files in F32: after each token, the most probable next one and log p of the one
// that follows. By hand: npm install node-llama-cpp@3.22.1 in a scratch folder, copy this file and architectures.json
// there, and run `node llama-cpp.mjs FOLDER_OF_F32_FILES > llama-cpp.json`.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

// Not a dependency of this repository: a name that the import checks cannot follow.
const peer = 'node-llama-cpp'
const { getLlama } = await import(peer)

const folder = process.argv[2]
const { cases } = JSON.parse(readFileSync(new URL('./architectures.json', import.meta.url), 'utf8'))
const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error' })
const found = {}
for (const [name, { ids }] of Object.entries(cases)) {
  const model = await llama.loadModel({ modelPath: join(folder, `${name}.f32.gguf`) })
  // The cache of this library is in halves; its float form is chosen here.
  const context = await model.createContext({
    contextSize: 64,
    threads: 1,
    flashAttention: false,
    experimentalKvCacheKeyType: 'F32',
    experimentalKvCacheValueType: 'F32',
  })
  const given = await context
    .getSequence()
    .controlledEvaluate(ids.map((id) => [id, { generateNext: { probabilities: true } }]))
  found[name] = {
    greedy: given.map(({ next }) => [...next.probabilities].reduce((a, b) => (b[1] > a[1] ? b : a))[0]),
    logprobs: ids.slice(1).map((id, i) => Number(Math.log(given[i].next.probabilities.get(id)).toFixed(6))),
  }
  await context.dispose()
  await model.dispose()
}
const versions = {
  'node-llama-cpp': JSON.parse(readFileSync(`node_modules/${peer}/package.json`, 'utf8')).version,
  'llama.cpp': llama.llamaCppRelease.release,
}
process.stdout.write(`${JSON.stringify({ versions, cases: found })}\n`)
process.exit(0)
