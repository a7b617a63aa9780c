// The engine's seam on onnxruntime-web in Node: WebGPU over Dawn (in software where there is no GPU), and WASM. The
// numbers are those of the native CPU runtime, which other tests hold to PEFT.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { compile } from '../../compiler/compile.ts'
import { startEngine } from '../../gpu-backend/engine/client.ts'
import type { Row } from '../../gpu-backend/engine/model.ts'
import { type OpenModel, openModel } from '../../gpu-backend/engine/open.ts'
import type { Factors } from '../../gpu-backend/engine/packed.ts'
import { chooseProvider } from '../../gpu-backend/engine/provider.ts'
import { defaultEngineConfig } from '../../gpu-backend/engine/request.ts'
import { adapterReader } from '../../gpu-backend/engine/store.ts'
import { nodeHost, openFolder, stageFolder } from '../../runtime/disk.ts'
import { SWIFTSHADER, sayMissing } from '../browser/chromium.ts'
import { temporaryFolder } from '../e2e/running.ts'
import { type Artifact, compileTiny } from './artifacts.ts'
import { requestOf } from './in-process.ts'

// Before Dawn is loaded: it asks for drivers once.
if (existsSync(SWIFTSHADER)) process.env.VK_DRIVER_FILES ??= SWIFTSHADER

const TOLERANCE = 1e-3
/** A device in software compiles each shader for seconds on a machine that is busy. */
const SLOW_MS = 300_000
const CONFIG = { slots: 2, bankRank: 11, maxRows: 4, kvBudgetBytes: 1e8, threads: 1 }

const missing = await chooseProvider('webgpu').then(
  () => undefined,
  (error: Error) => error.message,
)
if (missing !== undefined) sayMissing(`test/backend/webgpu.test.ts, WebGPU in Node: ${missing}`)

interface Turn {
  readonly row: number
  readonly tokens: readonly number[]
  readonly slot: number
  readonly logits?: 'none' | 'last' | 'all'
}

/** Rows join, run in changing company and order, outgrow their memory, and leave. */
const TURNS: readonly (readonly Turn[] | { readonly closes: number })[] = [
  [
    { row: 0, tokens: [23, 81, 85, 45, 74], slot: 1 },
    { row: 1, tokens: [7, 8, 9], slot: 2, logits: 'all' },
  ],
  [
    { row: 1, tokens: [11], slot: 2 },
    { row: 0, tokens: [12], slot: 1 },
  ],
  [{ row: 2, tokens: Array.from({ length: 70 }, (_, at) => 3 + at), slot: 0 }],
  [
    { row: 2, tokens: [31], slot: 0 },
    { row: 1, tokens: [32], slot: 2 },
  ],
  [{ row: 2, tokens: [33], slot: 0, logits: 'none' }],
  { closes: 0 },
  [
    { row: 1, tokens: [34], slot: 2 },
    { row: 2, tokens: [35], slot: 0 },
  ],
]

async function play({ model }: OpenModel): Promise<number[][]> {
  const rows: Row[] = []
  const found: number[][] = []
  for (const turn of TURNS) {
    if ('closes' in turn) {
      model.close(rows[turn.closes]!)
      continue
    }
    const outputs = await model.forward(
      turn.map(({ row, tokens, slot, logits = 'last' }) => {
        rows[row] ??= model.open(100)
        return { row: rows[row], tokens, slot, logits }
      }),
    )
    for (const { logits, finite } of outputs) {
      expect(finite).toBe(true)
      found.push(...logits.map((vector) => [...vector]))
    }
  }
  for (const row of rows.slice(1)) model.close(row)
  return found
}

function largestDifference(a: readonly number[][], b: readonly number[][]): number {
  expect(a.map((vector) => vector.length)).toEqual(b.map((vector) => vector.length))
  return Math.max(...a.flatMap((vector, at) => vector.map((value, id) => Math.abs(value - b[at]![id]!))))
}

async function open(tiny: Artifact, provider: 'cpu' | 'webgpu' | 'wasm'): Promise<OpenModel> {
  const opened = await openModel({ ...CONFIG, artifact: tiny.path, provider })
  const read = adapterReader(opened.manifest, CONFIG.bankRank, [`${tiny.path}/adapters`])
  for (const [at, name] of ['a', 'b'].entries())
    opened.bank!.write(at + 1, opened.bank!.prepare(await read(tiny.digest(name))))
  return opened
}

let tiny: Artifact
let reference: number[][]
beforeAll(async () => {
  tiny = await compileTiny()
  const cpu = await open(tiny, 'cpu')
  reference = await play(cpu)
  await cpu.session.release()
})

test('WASM gives the logits of the native runtime', { timeout: SLOW_MS }, async () => {
  const wasm = await open(tiny, 'wasm')
  expect(wasm.provider).toBe('wasm on the CPU')
  expect(largestDifference(await play(wasm), reference)).toBeLessThan(TOLERANCE)
  await wasm.session.release()
})

describe.skipIf(missing !== undefined)('WebGPU in Node', () => {
  let gpu: OpenModel
  beforeAll(async () => {
    gpu = await open(tiny, 'webgpu')
  }, SLOW_MS)
  afterAll(() => gpu.session.release())

  test('rows of several adapters and of the base give the logits of the CPU', { timeout: SLOW_MS }, async () => {
    expect(gpu.provider).toMatch(/^webgpu on ./)
    expect(largestDifference(await play(gpu), reference)).toBeLessThan(TOLERANCE)
  })

  test('a slot of NaN changes no other row, its own row is found out, and nothing of it stays', {
    timeout: SLOW_MS,
  }, async () => {
    const { model, bank } = gpu
    const run = async (slots: readonly number[]) => {
      const rows = slots.map((slot) => ({ row: model.open(100), slot }))
      const inputs = rows.map(({ row, slot }) => ({ row, slot, tokens: [23, 81, 85], logits: 'last' as const }))
      const outputs = await model.forward(inputs)
      for (const { row } of rows) model.close(row)
      return outputs.map(({ logits, finite }) => ({ logits: [...logits[0]!], finite }))
    }
    const stays = model.open(100)
    await model.forward([{ row: stays, slot: 0, tokens: [1], logits: 'none' }])
    const before = await run([0, 1])
    bank!.write(2, bank!.prepare(filled(tiny, Number.NaN)))
    const [base, one, bad] = await run([0, 1, 2])
    expect(base!.finite && one!.finite).toBe(true)
    expect(largestDifference([base!.logits, one!.logits], [before[0]!.logits, before[1]!.logits])).toBeLessThan(1e-5)
    expect(bad!.finite).toBe(false)
    const again = await run([0, 1, 0])
    expect(again.map(({ finite }) => finite)).toEqual([true, true, true])
    expect(largestDifference([again[2]!.logits], [base!.logits])).toBeLessThan(1e-5)
    model.close(stays)
  })

  test('an adapter that does not fit the bank is refused, and nothing is written', () => {
    expect(() =>
      gpu.bank!.prepare({ digest: 'd'.repeat(64), modules: new Map([['no.such', pair(1, 1, 1, 0)]]) }),
    ).toThrow('has no place in the bank')
    const { module, in: inputs, out } = tiny.manifest.bank[0]!
    const wide = { digest: 'd'.repeat(64), modules: new Map([[module, pair(inputs, out, 12, 0)]]) }
    expect(() => gpu.bank!.prepare(wide)).toThrow('r=12')
  })

  test('memory for rows is given within the budget, and no more', () => {
    const need = 100
    const { layers, kvHeads, headDim } = tiny.manifest.base.architecture
    expect(gpu.model.fits(128)).toBe(true)
    expect(gpu.model.fits(129)).toBe(false)
    expect(128 * layers * kvHeads * headDim * 2 * 4 * CONFIG.maxRows).toBeLessThan(CONFIG.kvBudgetBytes)
    const rows = Array.from({ length: CONFIG.maxRows }, () => gpu.model.open(need))
    expect(gpu.model.hasRoom(1)).toBe(false)
    for (const row of rows) gpu.model.close(row)
    expect(gpu.model.hasRoom(1)).toBe(true)
  })

  test('the engine in its worker thread says what the CPU says, token by token', { timeout: SLOW_MS }, async () => {
    const ids: number[][] = []
    for (const provider of ['cpu', 'webgpu'] as const) {
      const config = { ...defaultEngineConfig, ...CONFIG, artifact: tiny.path, provider }
      const engine = await startEngine(config, () => {})
      const request = requestOf({ promptIds: [23, 81, 85, 45, 74], maxTokens: 4, adapter: tiny.digest('a') })
      const found: number[] = []
      for await (const piece of engine.generate(request)) found.push(...piece.ids)
      ids.push(found)
      await engine.close()
    }
    expect(ids[0]!.length).toBeGreaterThan(0)
    expect(ids[1]).toEqual(ids[0])
  })
})

/** An int4 base, whose head is int8, without adapters. */
async function logitsOfInt4(provider: 'cpu' | 'webgpu' | 'wasm'): Promise<number[]> {
  const { model, session } = await openModel({ ...CONFIG, artifact: int4, provider })
  const row = model.open(20)
  const [output] = await model.forward([{ row, slot: 0, tokens: [1, 300, 400], logits: 'last' }])
  await session.release()
  return [...output!.logits[0]!]
}

let int4: string
beforeAll(async () => {
  const scratch = await temporaryFolder()
  afterAll(() => scratch.remove())
  int4 = `${scratch.path}/int4`
  const staged = await stageFolder(int4)
  const quantise = { method: 'int4', block: 32, grid: 'affine', rounding: 'rtn', keep: [], eight: [] } as const
  await compile({ base: openFolder('examples/demo/base'), adapters: [], target: 'routed', quantise }, staged, nodeHost)
  await staged.commit(int4)
})

test('a quantised base is refused on WASM, which lacks its embedding, by the name of the operator', async () => {
  await expect(logitsOfInt4('wasm')).rejects.toThrow(
    /needs the operator GatherBlockQuantized, which onnxruntime-web has not on wasm; choose another provider/,
  )
})

test.skipIf(missing !== undefined)(
  'a quantised base on WebGPU is within what the CPU rounds',
  { timeout: SLOW_MS },
  async () => {
    const [cpu, gpu] = [await logitsOfInt4('cpu'), await logitsOfInt4('webgpu')]
    // The CPU rounds the activations of the int8 head to 8 bits (docs/artifact-format.md, "Verification"); the GPU does not.
    const bound = (Math.max(...cpu.map(Math.abs)) * 4) / 256
    expect(largestDifference([gpu], [cpu])).toBeLessThan(bound)
  },
)

test('a provider that this machine lacks is refused with what to install', async () => {
  const script = `
    const { chooseProvider } = await import('./gpu-backend/engine/provider.ts')
    await chooseProvider('webgpu').catch((error) => console.log(error.code, error.message))
    console.log(await chooseProvider('auto'))
    process.exit(0)`
  const env = { ...process.env, VK_DRIVER_FILES: '/nowhere.json', VK_ICD_FILENAMES: '/nowhere.json' }
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { env, encoding: 'utf8' })
  expect(stdout).toMatch(/config_invalid provider webgpu cannot be used here: there is no adapter; install/)
  expect(stdout).toMatch(/\n(cpu|cuda)\n$/)
  // The runtime lists CUDA wherever its loader is; what counts is the library.
  const binaries = readdirSync('node_modules/onnxruntime-node/bin', { recursive: true, encoding: 'utf8' })
  const installed = binaries.some((path) => path.includes('onnxruntime_providers_cuda'))
  const cuda = await chooseProvider('cuda').catch((error: Error) => error.message)
  expect(cuda).toMatch(installed ? /^cuda$/ : /^provider cuda cannot be used here: .*not installed/)
})

function pair(inputs: number, out: number, r: number, value: number) {
  return { r, A: new Float32Array(inputs * r).fill(value), B: new Float32Array(r * out).fill(value) }
}

function filled({ manifest }: Artifact, value: number): Factors {
  const modules = manifest.bank.map(({ module, in: inputs, out }) => [module, pair(inputs, out, 5, value)] as const)
  return { digest: 'x'.repeat(64), modules: new Map(modules) }
}
