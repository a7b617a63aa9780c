// `sidepath plan`: what a training run would take, before anything is trained; or what LoRA is of one matrix.
import { stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readConfig } from '../compiler/checkpoint/config.ts'
import { GraphBuilder } from '../compiler/graph/builder.ts'
import { encodeModel } from '../compiler/onnx/encode.ts'
import { openFile, stageFolder } from '../runtime/disk.ts'
import { openSession } from '../runtime/node.ts'
import { rowsOfEpoch } from '../trainer/data/order.ts'
import { type ReadData, readJsonl } from '../trainer/data/read-jsonl.ts'
import { selectLora } from '../trainer/lora/select.ts'
import { checkOptions } from '../trainer/run/options.ts'
import { planRun } from '../trainer/run/plan.ts'
import { rowShape } from '../trainer/run/row-shape.ts'
import { UserError } from './fail.ts'
import { openBaseFolder } from './open-base.ts'
import { table } from './table.ts'
import { MAX_THREADS, number, parseTrain, positive, type TrainFlags, wholeNumber } from './train-options.ts'
import { openTrainingText } from './train-text.ts'

export interface PlanCommandOptions extends TrainFlags {
  readonly base?: string
  readonly data?: string
  readonly shape?: string
  readonly threads: string
  readonly pricePerHour?: string
  readonly json?: boolean
}

/** One product of this size is 2.1 GFLOP: long enough for a clock, short beside a person's patience. */
const SIZE = 1024
const PRODUCTS = 8
/** A step reaches this share of the speed of a lone product: the rest goes to what is no product. An assumption, not a measurement. */
const SHARE = 0.6
const MAX_SIDE = 1_000_000

export async function planCommand(options: PlanCommandOptions): Promise<void> {
  if (options.shape !== undefined) return planMatrix(options.shape, number('r', options.r), options.json ?? false)
  if (options.base === undefined) throw new UserError('plan needs --base, or --shape OUTxIN for one matrix alone.')
  const threads = wholeNumber('threads', options.threads, 0, MAX_THREADS)
  const price = options.pricePerHour === undefined ? undefined : positive('price-per-hour', options.pricePerHour)
  const base = await openBaseFolder(options.base)
  const config = await readConfig(base)
  const { maxPositions, vocabSize } = config.architecture
  const { maxLength } = parseTrain(options, maxPositions, () => 1)
  const { examples, skipped, reasons } = await readExamples(options, maxLength, vocabSize)
  const rows = (width: number) => {
    const order = { seed: 0, shuffle: false, packTokens: options.packing ? width - 1 : undefined }
    return rowsOfEpoch(examples, order, 0)
  }
  const parsed = parseTrain(options, maxPositions, (width) => rows(width).length)
  checkOptions(parsed, maxPositions)
  const spec = selectLora(config.architecture, parsed.lora)
  const shape = rowShape(examples, parsed)
  const plan = planRun(config, spec, parsed, shape.tokens, shape.targets)
  const speed = SHARE * (await measure(threads))
  const seconds = plan.operations / speed
  const cost = price === undefined ? undefined : (price * seconds) / 3600
  const result = {
    ...plan,
    steps: parsed.steps,
    examples: examples.length,
    skipped,
    operationsPerSecond: speed,
    seconds,
    ...(cost !== undefined && { cost }),
  }
  if (options.json) {
    process.stdout.write(`${JSON.stringify(result)}\n`)
    return
  }
  const isCounted = options.data !== undefined || options.steps !== undefined
  const mib = (bytes: number) => `${Math.ceil(bytes / 2 ** 20).toLocaleString('en')} MiB`
  const { memory } = plan
  const count = (value: number) => value.toLocaleString('en')
  const lines = [
    [
      'trained',
      `${count(plan.trainable)} parameters of ${spec.modules.length} linears, instead of ${count(plan.baseParameters)} (${ratio(plan.baseParameters, plan.trainable)})`,
    ],
    [
      'memory',
      `about ${mib(memory.totalBytes)}: base ${mib(memory.weightsBytes)}, trained ${mib(memory.trainedBytes)}, activations ${mib(memory.activationBytes)}`,
    ],
    ['full fine-tuning', `about ${mib(memory.fullBytes)}`],
    ...(skipped === 0 ? [] : [['left out', `${count(skipped)} lines that cannot be read, the first: ${reasons[0]}`]]),
    ['a step', `${count(plan.stepTokens)} tokens, ${(plan.stepOperations / 1e9).toFixed(0)} GFLOP`],
    [
      'time',
      `about ${duration(seconds)} for ${count(parsed.steps)} ${isCounted ? 'steps' : 'step, as neither --data nor --steps says how many'}, at ${(speed / 1e9).toFixed(0)} GFLOP/s on this machine`,
    ],
    ...(cost === undefined ? [] : [['cost', `about ${cost.toFixed(2)} at ${price} an hour`]]),
  ]
  process.stdout.write(`${table(['', ''], lines)}\n`)
}

const ratio = (whole: number, part: number) => `${(whole / part).toFixed(0)} times fewer`

async function readExamples(
  { data, base }: PlanCommandOptions,
  maxTokens: number,
  vocabSize: number,
): Promise<ReadData> {
  if (data === undefined) return { examples: [], skipped: 0, reasons: [] }
  if (!(await stat(data).catch(() => undefined))?.isFile()) throw new UserError(`--data "${data}" is not a file.`)
  const folder = await openBaseFolder(base ?? '')
  const text = await openTrainingText(folder, (await readConfig(folder)).eosTokenIds)
  const file = await openFile(data)
  try {
    return await readJsonl(file, text, { maxTokens, badLines: 'skip', vocabSize })
  } finally {
    await file.close()
  }
}

/** W [out, in] has out·in numbers, A and B have r·(in + out). */
function planMatrix(shape: string, r: number, json: boolean): void {
  const [, rows, columns] = /^(\d{1,7})[x×](\d{1,7})$/.exec(shape) ?? []
  const [out, inSize] = [Number(rows), Number(columns)]
  if (!(out >= 1 && inSize >= 1 && out <= MAX_SIDE && inSize <= MAX_SIDE)) {
    throw new UserError(`--shape "${shape}" is no shape; write OUTxIN, each from 1 to ${MAX_SIDE}, e.g. 10000x10000.`)
  }
  if (!Number.isInteger(r) || r < 1 || r > Math.min(out, inSize)) {
    throw new UserError(
      `--r ${r}: a rank of a ${out} × ${inSize} matrix is a whole number from 1 to ${Math.min(out, inSize)}.`,
    )
  }
  const [full, trainable] = [out * inSize, r * (out + inSize)]
  process.stdout.write(
    json
      ? `${JSON.stringify({ out, in: inSize, r, full, trainable })}\n`
      : `${out} × ${inSize} at r = ${r}: ${trainable.toLocaleString('en')} parameters instead of ${full.toLocaleString('en')} (${ratio(full, trainable)})\n`,
  )
}

/** Floating-point operations a second of a product of matrices here and now. */
async function measure(threads: number): Promise<number> {
  const builder = new GraphBuilder('measure', [])
  const a = builder.input('a', 'float32', [SIZE, SIZE])
  const b = builder.input('b', 'float32', [SIZE, SIZE])
  builder.output('y', builder.node('MatMul', 'product', [a, b]), 'float32', [SIZE, SIZE])
  const folder = await stageFolder(join(tmpdir(), 'sidepath-plan'))
  try {
    const file = await folder.create('measure.onnx')
    await file.write(encodeModel(builder.build()))
    await file.close()
    const session = await openSession(join(folder.path, 'measure.onnx'), { threads })
    const feed = { data: new Float32Array(SIZE * SIZE).fill(1), dims: [SIZE, SIZE] }
    let best = 0
    for (let i = 0; i < PRODUCTS; i += 1) {
      const started = performance.now()
      await session.run({ a: feed, b: feed })
      best = Math.max(best, (2 * SIZE ** 3) / ((performance.now() - started) / 1000))
    }
    await session.release()
    return best
  } finally {
    await folder.discard()
  }
}

function duration(seconds: number): string {
  if (seconds < 90) return `${Math.ceil(seconds)} s`
  return seconds < 5400 ? `${Math.ceil(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`
}
