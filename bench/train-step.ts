// Our side of bench/train.ts, a process of its own: prepares a base, then for each line on stdin does as many steps as it
// says and prints the seconds; at the end of stdin prints what it trained and its peak of memory.
// Arguments: base, mode (lora, recompute, int4, full, full-recompute), rows, tokens, r, threads.
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { openCheckpoint } from '../compiler/checkpoint/read.ts'
import { planWeights } from '../compiler/graph/weights.ts'
import { encodeModel } from '../compiler/onnx/encode.ts'
import type { QuantiseOptions } from '../compiler/quantise/spec.ts'
import { writeWeights } from '../compiler/write-weights.ts'
import { nodeHost, openFile, openFolder, stageFolder } from '../runtime/disk.ts'
import { openSession } from '../runtime/node.ts'
import { makeBatch } from '../trainer/data/batch.ts'
import { buildLearnGraph, type Trained } from '../trainer/graph/learn.ts'
import { selectLora } from '../trainer/lora/select.ts'
import { ADAM_DEFAULTS } from '../trainer/optimise/adamw.ts'
import { Learner } from '../trainer/run/learner.ts'
import { initialise, loraGroups, loraParameters, Parameters } from '../trainer/run/parameters.ts'
import { piecesFor } from '../trainer/run/pieces.ts'
import { readWeight } from '../trainer/run/prepare.ts'

const [base = '', mode = 'lora', ...numbers] = process.argv.slice(2)
const [rows = 1, tokens = 1, r = 1, threads = 0] = numbers.map(Number)
const isFull = mode.startsWith('full')
const quantise: QuantiseOptions | undefined =
  mode === 'int4' ? { method: 'int4', block: 32, grid: 'symmetric', rounding: 'rtn', keep: [], eight: [] } : undefined

const checkpoint = await openCheckpoint(openFolder(base))
const { config } = checkpoint
const spec = selectLora(config.architecture, {
  r,
  alpha: 2 * r,
  targetModules: 'all-linear',
  rankPattern: {},
  alphaPattern: {},
  useRslora: false,
  useDora: false,
  init: 'default',
  dropout: 0,
})
const trained: Trained = isFull ? { full: true } : { lora: spec }
const plan = planWeights(config, quantise)
const pieces = piecesFor(config.architecture.vocabSize, rows * tokens)
const { graph, trainable } = buildLearnGraph(config, plan, trained, {
  pieces,
  recompute: mode.endsWith('recompute'),
  gradients: true,
})
const work = await stageFolder(join(tmpdir(), 'sidepath-bench-train'))
await writeWeights(
  checkpoint,
  plan,
  new Map(),
  work,
  nodeHost,
  () => {},
  undefined,
  quantise && { options: quantise, onError: () => {} },
)
await writeFile(join(work.path, 'train.onnx'), encodeModel(graph))
const session = await openSession(join(work.path, 'train.onnx'), { threads, prepack: false })
const parameters = isFull ? await allWeights() : loraParameters(spec)
if (!isFull) await initialise(spec, parameters, 0, (module) => readWeight(checkpoint, module))
const learner = new Learner(session, parameters, loraGroups(parameters, 1))

// Every token is a target, as a text has it. The model sees one token fewer than the row has.
const ids = Array.from({ length: rows }, (_, row) =>
  Array.from(
    { length: tokens + 1 },
    (_, at) => 3 + ((row * 7919 + at * 104_729) % (config.architecture.vocabSize - 3)),
  ),
)
const { feeds } = makeBatch(
  ids.map((row) => [{ ids: row, isTarget: row.map((_, at) => at > 0) }]),
  1 / (rows * tokens),
  pieces,
)
const options = { learningRate: 1e-4, maxGradNorm: 1, adam: ADAM_DEFAULTS }
await learner.learn([feeds], options)
process.stdout.write('ready\n')
for await (const line of createInterface({ input: process.stdin })) {
  const started = performance.now()
  for (let step = 0; step < Number(line); step += 1) await learner.learn([feeds], options)
  process.stdout.write(`${(performance.now() - started) / 1000}\n`)
}
await session.release()
await checkpoint.close()
await work.discard()
const peak = /VmHWM:\s*(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]
process.stdout.write(`${JSON.stringify({ trainable: parameters.values.length, peakBytes: 1024 * Number(peak) })}\n`)

/** What full fine-tuning begins with: every weight of the file. */
async function allWeights(): Promise<Parameters> {
  const places = new Map(plan.map((weight) => [weight.name, weight]))
  const found = new Parameters(trainable.map((name) => ({ name, dims: places.get(name)?.dims ?? [] })))
  const file = await openFile(join(work.path, 'model.onnx_data'))
  for (const name of trainable) {
    const { offset = 0, bytes = 0 } = places.get(name) ?? {}
    found.of(name).set(new Float32Array((await file.read(offset, bytes)).buffer))
  }
  await file.close()
  return found
}
