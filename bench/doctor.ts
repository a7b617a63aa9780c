// The doctor on an adapter of 1,000 modules: time and memory of the whole command.
// No out × in product is formed: all of them would take 32 GiB as float64.
import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stream } from '../compiler/combine/threefry.ts'
import { quantile, record } from './record.ts'

const SAMPLES = 5
const MAX_PEAK_MIB = 1024
const [MODULES, SIZE, R] = [1000, 2048, 16]

const folder = await mkdtemp(join(tmpdir(), 'sidepath-bench-doctor-'))
const [base, adapter] = [join(folder, 'base'), join(folder, 'adapter')]
await writeBase()
await writeAdapter()

const seconds: number[] = []
const peaks: number[] = []
const cpu: number[] = []
for (let i = 0; i < SAMPLES; i += 1) {
  const started = performance.now()
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [
      '--import',
      join(import.meta.dirname, 'process-usage.ts'),
      'cli/bin.js',
      'doctor',
      adapter,
      '--base',
      base,
      '--json',
    ],
    { cwd: join(import.meta.dirname, '..'), encoding: 'utf8', maxBuffer: 2 ** 28 },
  )
  if (status !== 0) throw new Error(stderr)
  seconds.push((performance.now() - started) / 1000)
  const usage: { peakMib: number; cpuSeconds: number } = JSON.parse(stderr)
  peaks.push(usage.peakMib)
  cpu.push(usage.cpuSeconds)
  const [report] = JSON.parse(stdout).adapters
  if (report.modules.length !== MODULES) throw new Error(`${report.modules.length} modules`)
}
await rm(folder, { recursive: true })
// The factors as float32 take 250 MiB; a hundred products at once would not fit.
if (Math.max(...peaks) > MAX_PEAK_MIB) throw new Error(`a peak of ${Math.max(...peaks)} MiB`)

const what = `doctor of one adapter, ${MODULES} modules of ${SIZE} × ${SIZE}, r=${R} in bf16`
record('doctor', 'node bench/doctor.ts', [
  { what: `${what}: whole command`, value: `${quantile(seconds, 0.5).toFixed(2)} s`, samples: seconds },
  { what: `${what}: processor time`, value: `${quantile(cpu, 0.5).toFixed(2)} s`, samples: cpu },
  { what: `${what}: peak resident memory`, value: `${quantile(peaks, 0.5).toFixed(0)} MiB`, samples: peaks },
])

/** Its tensors are holes of the file: the spectra need their shapes alone. */
async function writeBase(): Promise<void> {
  await mkdir(base)
  const bytes = 2 * SIZE * SIZE
  const entries = names().map((name, i) => [
    `${name}.weight`,
    { dtype: 'BF16', shape: [SIZE, SIZE], data_offsets: [i * bytes, (i + 1) * bytes] },
  ])
  const header = headerOf(entries)
  const file = await open(join(base, 'model.safetensors'), 'w')
  await file.write(header)
  await file.truncate(header.length + MODULES * bytes)
  await file.close()
  await writeFile(join(base, 'config.json'), '{}')
}

async function writeAdapter(): Promise<void> {
  await mkdir(adapter)
  const bytes = 2 * R * SIZE
  const entries = names().flatMap((name, i) => [
    [`base_model.model.${name}.lora_A.weight`, tensor([R, SIZE], 2 * i * bytes)],
    [`base_model.model.${name}.lora_B.weight`, tensor([SIZE, R], (2 * i + 1) * bytes)],
  ])
  const file = await open(join(adapter, 'adapter_model.safetensors'), 'w')
  await file.write(headerOf(entries))
  for (let i = 0; i < 2 * MODULES; i += 1) {
    // The upper half of a float32 is a bfloat16.
    const floats = Float32Array.from(stream(i, 'bench/doctor')(R * SIZE), (value) => value - 0.5)
    await file.write(Uint16Array.from(new Uint32Array(floats.buffer), (word) => word >>> 16))
  }
  await file.close()
  const config = { peft_type: 'LORA', r: R, lora_alpha: 2 * R, target_modules: ['linear'], task_type: null }
  await writeFile(join(adapter, 'adapter_config.json'), JSON.stringify(config))
}

function tensor(shape: number[], at: number) {
  return { dtype: 'BF16', shape, data_offsets: [at, at + 2 * R * SIZE] }
}

function names(): string[] {
  return Array.from({ length: MODULES }, (_, i) => `layers.${String(i).padStart(4, '0')}.linear`)
}

function headerOf(entries: unknown[][]): Buffer {
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  return Buffer.concat([length, json])
}
