// Combining adapters by svd: ours against PEFT's add_weighted_adapter, alternating, on the same factors.
// PYTHON names an interpreter with torch and peft.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type CombineResult, combineModules } from '../compiler/combine/combine.ts'
import type { LoraModule } from '../compiler/combine/input.ts'
import { stream } from '../compiler/combine/threefry.ts'
import { encodeSafetensors, type FloatTensor } from '../compiler/safetensors/write.ts'
import { quantile, record } from './record.ts'

const SAMPLES = 5
// PEFT does one SVD of SIZE × SIZE a module, so a sample of it takes about a minute.
const [MODULES, ADAPTERS, SIZE, R, ALPHA, RANK] = [8, 4, 2048, 16, 32, 16]

const inputs = Array.from({ length: ADAPTERS }, (_, i) => ({
  name: `a${i}`,
  weight: 0.5 + 0.25 * i,
  modules: new Map(
    Array.from({ length: MODULES }, (_, module): [string, LoraModule] => [
      `m${module}`,
      { A: uniform(`A/${i}/${module}`), B: uniform(`B/${i}/${module}`), r: R, in: SIZE, out: SIZE, scaling: ALPHA / R },
    ]),
  ),
}))

const folder = await mkdtemp(join(tmpdir(), 'sidepath-bench-svd-'))
await writeAdapters()
const python = spawn(
  process.env.PYTHON ?? 'python3',
  [join(import.meta.dirname, 'svd-peft.py'), folder, ...[MODULES, ADAPTERS, SIZE, R, ALPHA, RANK].map(String)],
  { stdio: ['pipe', 'pipe', 'inherit'] },
)
const lines = createInterface({ input: python.stdout })[Symbol.asyncIterator]()
await lines.next()

const oursMs: number[] = []
const peftMs: number[] = []
let result: CombineResult | undefined
for (let i = 0; i < SAMPLES; i += 1) {
  const started = performance.now()
  result = combineModules(inputs, { method: 'svd', rank: RANK })
  oursMs.push(performance.now() - started)
  python.stdin.write('\n')
  peftMs.push(1000 * Number((await lines.next()).value))
}
if (result === undefined) throw new Error('no samples')
await writeOurs(result)
python.stdin.end()
const errors: { ours: number; peft: number } = JSON.parse(String((await lines.next()).value))
await once(python, 'close')
await rm(folder, { recursive: true })

const what = `combine ${ADAPTERS} adapters of r=${R} by svd to r=${RANK}, ${MODULES} modules of ${SIZE} × ${SIZE}`
const ratio = quantile(peftMs, 0.5) / quantile(oursMs, 0.5)
record('svd', 'PYTHON=<python with peft> node bench/svd.ts', [
  { what: `${what}: sidepath`, value: `${quantile(oursMs, 0.5).toFixed(0)} ms`, samples: oursMs },
  { what: `${what}: PEFT add_weighted_adapter`, value: `${quantile(peftMs, 0.5).toFixed(0)} ms`, samples: peftMs },
  { what: `${what}: PEFT's time over sidepath's`, value: `${ratio.toFixed(0)}×` },
  {
    what: `${what}: Frobenius error in fp64, sidepath and PEFT`,
    value: `${errors.ours.toFixed(6)} and ${errors.peft.toFixed(6)} (reported: ${result.total.frobeniusError.toFixed(6)})`,
  },
])

function uniform(name: string): Float32Array {
  return Float32Array.from(stream(1, name)(R * SIZE), (value) => 0.2 * (value - 0.5))
}

async function writeAdapters(): Promise<void> {
  const tensors = new Map<string, FloatTensor>()
  for (const { name, modules } of inputs) {
    for (const [module, { A, B }] of modules) {
      tensors.set(`${name}.${module}.A`, { shape: [R, SIZE], data: A })
      tensors.set(`${name}.${module}.B`, { shape: [SIZE, R], data: B })
    }
  }
  await writeFile(join(folder, 'adapters.safetensors'), encodeSafetensors(tensors, {}))
}

async function writeOurs({ modules }: CombineResult): Promise<void> {
  const tensors = new Map<string, FloatTensor>()
  for (const [module, { A, B, r }] of modules) {
    tensors.set(`${module}.A`, { shape: [r, SIZE], data: A })
    tensors.set(`${module}.B`, { shape: [SIZE, r], data: B })
  }
  await writeFile(join(folder, 'ours.safetensors'), encodeSafetensors(tensors, {}))
}
