// `sidepath plan`: figures that can be worked out by hand, and refusals by name.
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

const run = promisify(execFile)
const ROOT = join(import.meta.dirname, '../..')
const BASE = join(ROOT, 'examples/demo/base')
const plan = async (...args: string[]) =>
  (await run(process.execPath, [join(ROOT, 'cli/bin.js'), 'plan', '--threads', '1', ...args])).stdout

it('says of a matrix of 10,000 × 10,000 at r = 8 that 160,000 numbers are trained instead of 100,000,000', async () => {
  expect(await plan('--shape', '10000x10000', '--r', '8')).toBe(
    '10000 × 10000 at r = 8: 160,000 parameters instead of 100,000,000 (625 times fewer)\n',
  )
})

it('counts what is trained, what memory it takes, and how long: less than full fine-tuning', async () => {
  const json = JSON.parse(await plan('--base', BASE, '--r', '4', '--steps', '10', '--price-per-hour', '2', '--json'))
  // 4 layers: q and o 256 + 256, k and v 256 + 64, gate and up 256 + 640, down 640 + 256.
  expect(json.trainable).toBe(4 * 4 * (2 * 512 + 2 * 320 + 3 * 896))
  expect(json.baseParameters).toBe(3_148_032)
  expect(json.memory.trainedBytes).toBe(4 * 4 * json.trainable)
  expect(json.memory.totalBytes).toBeLessThan(json.memory.fullBytes)
  expect(json.cost).toBeCloseTo((2 * json.seconds) / 3600, 6)
  expect(json.steps).toBe(10)
})

it('takes the rows of the data, packed where that is asked for', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'sidepath-plan-'))
  const data = join(folder, 'data.jsonl')
  await writeFile(
    data,
    `${JSON.stringify({ text: 'In the beginning God created the heaven and the earth.' })}\n`.repeat(64),
  )
  const of = async (...more: string[]) =>
    JSON.parse(await plan('--base', BASE, '--data', data, '--max-length', '64', '--epochs', '2', '--json', ...more))
  const [apart, packed] = [await of(), await of('--packing')]
  await rm(folder, { recursive: true })
  expect(apart.steps).toBe(16)
  expect(packed.steps).toBeLessThan(apart.steps)
  expect(packed.stepTokens).toBe(8 * 63)
})

it('says which lines it left out, and how many', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'sidepath-plan-'))
  const data = join(folder, 'data.jsonl')
  await writeFile(data, `{"text": "In the beginning."}\n{"txt": "In the beginning."}\n`)
  const [table, json] = [
    await plan('--base', BASE, '--data', data),
    await plan('--base', BASE, '--data', data, '--json'),
  ]
  await rm(folder, { recursive: true })
  expect(table).toMatch(/left out +1 lines that cannot be read, the first: .*data\.jsonl:2: the line/)
  expect(JSON.parse(json)).toMatchObject({ examples: 1, skipped: 1 })
})

it('counts a base in int4 smaller, and activations that are computed twice smaller', async () => {
  const of = async (...more: string[]) => JSON.parse(await plan('--base', BASE, '--steps', '1', '--json', ...more))
  const [float, int4, twice] = [await of(), await of('--quantize', 'int4'), await of('--recompute')]
  expect(int4.memory.weightsBytes).toBeLessThan(0.3 * float.memory.weightsBytes)
  expect(twice.memory.activationBytes).toBeLessThan(0.6 * float.memory.activationBytes)
  expect(twice.operations).toBeGreaterThan(float.operations)
})

it.each([
  [['--shape', '10x0'], /is no shape/],
  [['--shape', '10x10', '--r', '11'], /whole number from 1 to 10/],
  [[], /needs --base/],
  [['--base', BASE, '--r', '0'], /r is 0; a rank is/],
  [['--base', BASE, '--r', '300'], /its rank would be 300; give one of at most 256/],
  [['--base', BASE, '--target-modules', 'nothing'], /no linear of the base/],
  [
    ['--base', BASE, '--rank-pattern', 'q_proj=2', '--rank-pattern', 'q_prj=2'],
    /rank_pattern has the key "q_prj", which decides for no linear/,
  ],
  [['--base', BASE, '--target-modules', 'mlp', '--alpha-pattern', 'q_proj=2'], /alpha_pattern has the key "q_proj"/],
  [['--base', BASE, '--price-per-hour', '-1'], /--price-per-hour -1: give a number above 0/],
  [['--base', BASE, '--epochs', '0'], /--epochs 0: give a number above 0/],
  [['--base', BASE, '--threads', '257'], /--threads 257: give a whole number from 0 to 256/],
  [['--base', BASE, '--max-length', '4096'], /longest example is 4096; give a whole number from 2 to 512/],
  [['--base', BASE, '--init', 'pissa', '--dropout', '0.1'], /does not go with lora_dropout/],
  [['--base', BASE, '--patience', '2', '--eval-every', '0'], /patience counts evaluations/],
])('refuses %j by name', async (args, reason) => {
  const error = await plan(...args).then(
    () => undefined,
    (thrown: { stderr: string; code: number }) => thrown,
  )
  expect(error?.stderr).toMatch(reason)
  expect(error?.code).toBe(1)
})
