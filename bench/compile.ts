// Compiling a base of 3.2 B parameters in bfloat16 (random, the shape of Llama 3.2 3B, sharded) and, where it is in the
// cache, SmolLM2's GGUF: seconds, MB of input a second, processor time and peak memory of the whole process, each run in a
// process of its own. Needs 30 GB of disk. SAMPLES: rounds; BASE: a folder that holds the 3 B base already; FORMS: which of them, by name.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { findModel } from '../scripts/models.ts'
import { THREE_BILLION, writeBase } from './merge-fixture.ts'
import { quantile, type Row, record } from './record.ts'

const SAMPLES = Number(process.env.SAMPLES ?? 5)
const SHARD_BYTES = 2e9
/** Says the peak of the process's resident memory, threads and all, and its seconds of processor time. */
const SAY_USE =
  "data:text/javascript,process.on('exit',()=>{const{maxRSS,userCPUTime,systemCPUTime}=process.resourceUsage();console.error(maxRSS,(userCPUTime+systemCPUTime)/1e6)})"

const FORMS: readonly (readonly [name: string, options: readonly string[]])[] = [
  ['int4', ['--quantize', 'int4']],
  ['int4 --symmetric', ['--quantize', 'int4', '--symmetric']],
  ['int8', ['--quantize', 'int8']],
  ['nf4', ['--quantize', 'nf4']],
  ['fp16', ['--quantize', 'fp16']],
  ['float32', []],
]

interface Sample {
  readonly seconds: number
  readonly mbPerSecond: number
  readonly processorSeconds: number
  readonly rssMiB: number
  /** Seconds of `cat` of the input, of the same files in the same state. */
  readonly catSeconds: number
}

if (!(Number.isSafeInteger(SAMPLES) && SAMPLES > 0)) throw new Error('SAMPLES is not a whole number from 1 on')
const scratch = await mkdtemp(join(tmpdir(), 'sidepath-bench-compile-'))
const rows: Row[] = []
try {
  const base = process.env.BASE ?? join(scratch, 'base')
  if (process.env.BASE === undefined) await writeBase(base, THREE_BILLION, SHARD_BYTES)
  rows.push({ what: 'load of the machine before', value: loadavg()[0]!.toFixed(1) })
  for (const [name, options] of FORMS.filter(([form]) => isWanted(form)))
    rows.push(...measure('3.2 B parameters in bf16', base, name, options))
  const gguf = findModel('smollm2')
  if (gguf === undefined) console.error('SmolLM2 is not in the cache (npm run models): it is not measured.')
  else rows.push(...measure('SmolLM2-135M, Q4_1 GGUF', gguf, 'int4', ['--quantize', 'int4', '--verify', 'files']))
} finally {
  await rm(scratch, { recursive: true, force: true })
}
record('compile', `SAMPLES=${SAMPLES} npm run bench:compile`, rows)

function isWanted(form: string): boolean {
  return process.env.FORMS === undefined || process.env.FORMS.split(',').includes(form)
}

function measure(what: string, base: string, form: string, options: readonly string[]): Row[] {
  const samples = Array.from({ length: SAMPLES }, () => run(base, options))
  const row = (figure: string, value: string, of: (sample: Sample) => number): Row => {
    return { what: `${what} → ${form}: ${figure}`, value, samples: samples.map(of) }
  }
  const middle = (of: (sample: Sample) => number) => quantile(samples.map(of), 0.5)
  return [
    row('whole process, hashed again at its end', `${middle((s) => s.seconds).toFixed(1)} s`, (s) => s.seconds),
    row('input', `${middle((s) => s.mbPerSecond).toFixed(0)} MB/s`, (s) => s.mbPerSecond),
    row('processor time', `${middle((s) => s.processorSeconds).toFixed(1)} s`, (s) => s.processorSeconds),
    row('peak resident memory', `${middle((s) => s.rssMiB).toFixed(0)} MiB`, (s) => s.rssMiB),
    row('cat of the input, to compare', `${middle((s) => s.catSeconds).toFixed(1)} s`, (s) => s.catSeconds),
  ]
}

/** Nothing is to be written back when it starts. */
function run(base: string, options: readonly string[]): Sample {
  execFileSync('sync')
  const files = statSync(base).isDirectory()
    ? readdirSync(base)
        .map((name) => join(base, name))
        .filter((path) => path.endsWith('.safetensors'))
    : [base]
  const megabytes = files.reduce((sum, path) => sum + statSync(path).size, 0) / 1e6
  const reading = performance.now()
  spawnSync('cat', files, { stdio: 'ignore' })
  const catSeconds = (performance.now() - reading) / 1000
  const out = join(scratch, 'out')
  const cli = join(import.meta.dirname, '../cli/bin.js')
  const args = ['--import', SAY_USE, cli, 'compile', '--base', base, '--out', out, ...options, '--json']
  const started = performance.now()
  const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', maxBuffer: 2 ** 28 })
  const seconds = (performance.now() - started) / 1000
  if (status !== 0 || !existsSync(join(out, 'manifest.json')))
    throw new Error(`${args.join(' ')}: ${status}\n${stderr}`)
  execFileSync('rm', ['-r', out])
  const [rssKiB = 0, processorSeconds = 0] = (stderr.trim().split('\n').at(-1) ?? '').split(' ').map(Number)
  return { seconds, mbPerSecond: megabytes / seconds, processorSeconds, rssMiB: rssKiB / 1024, catSeconds }
}
