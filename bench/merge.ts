// Merging a LoRA adapter of r = 16 on all linears into a checkpoint in bfloat16: ours, PEFT's, mergekit's and `cp`,
// alternating, each in a process of its own. PYTHON names an interpreter with transformers and peft, MERGEKIT one with
// mergekit; without them those two are left out. SAMPLES: rounds that count; fewer than five are not recorded.
import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, fsyncSync, openSync } from 'node:fs'
import { copyFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LARGE, type Size, SMALL, writeAdapter, writeBase } from './merge-fixture.ts'
import { quantile, type Row, record } from './record.ts'

const ENOUGH_SAMPLES = 5
const SAMPLES = Number(process.env.SAMPLES ?? ENOUGH_SAMPLES)
const { PYTHON, MERGEKIT } = process.env

/** Says the peak of the process's resident memory at its end, in KiB. */
const SAY_PEAK = "data:text/javascript,process.on('exit',()=>console.error(process.resourceUsage().maxRSS))"

interface Sample {
  readonly seconds: number
  readonly rssMiB: number
}

if (!(Number.isSafeInteger(SAMPLES) && SAMPLES > 0)) throw new Error('SAMPLES is not a whole number from 1 on')
if (PYTHON === undefined) {
  console.error(
    'PYTHON is not set: without a Python that has transformers and peft, only sidepath and cp are measured.',
  )
}
if (MERGEKIT === undefined) console.error('MERGEKIT is not set: mergekit is not measured.')

const scratch = await mkdtemp(join(tmpdir(), 'sidepath-bench-merge-'))
const rows: Row[] = []
try {
  for (const size of [SMALL, LARGE]) rows.push(...(await measure(size)))
} finally {
  await rm(scratch, { recursive: true, force: true })
}
const interpreters = [
  ...(PYTHON === undefined ? [] : ['PYTHON=<python with peft>']),
  ...(MERGEKIT === undefined ? [] : ['MERGEKIT=<python with mergekit>']),
]
if (SAMPLES >= ENOUGH_SAMPLES) record('merge', [...interpreters, 'npm run bench:merge'].join(' '), rows)
else for (const { what, value } of rows) console.log(`${what}: ${value}`)

async function measure(size: Size): Promise<Row[]> {
  const folder = await mkdtemp(join(scratch, 'size-'))
  const [base, adapter, out] = ['base', 'adapter', 'out'].map((name) => join(folder, name)) as [string, string, string]
  const parameters = await writeBase(base, size)
  await writeAdapter(adapter, base, size)
  const weights = join(base, 'model.safetensors')
  const ours: Sample[] = []
  const copies: number[] = []
  const durableCopies: number[] = []
  const peers = [
    ...(PYTHON === undefined ? [] : [openPeer('PEFT merge_and_unload + save_pretrained', PYTHON, 'peft-merge.py')]),
    ...(MERGEKIT === undefined
      ? []
      : [openPeer('mergekit passthrough of base+adapter', MERGEKIT, 'mergekit-merge.py')]),
  ]
  const contenders = [
    async () => {
      const { seconds, result } = await timed(weights, out, () => runOurs(base, adapter, out))
      return () => ours.push({ seconds, rssMiB: result / 1024 })
    },
    ...peers.map(({ samples, alone, run }) => async () => {
      const { seconds, result } = await timed(weights, out, () => run(base, adapter, out))
      return () => {
        samples.push({ seconds, rssMiB: result.maxRssKiB / 1024 })
        alone.push(result.seconds)
      }
    }),
    async () => {
      const { seconds, result } = await timed(weights, out, () => copy(weights, out))
      return () => {
        copies.push(result)
        durableCopies.push(seconds)
      }
    },
  ]
  // The first round warms the page cache and is not counted; the order rotates, so that none always follows the same.
  for (let round = -1; round < SAMPLES; round += 1) {
    for (let turn = 0; turn < contenders.length; turn += 1) {
      const keep = await contenders[(round + 1 + turn) % contenders.length]!()
      if (round >= 0) keep()
    }
  }
  await rm(folder, { recursive: true })
  const about = `merge r=16 on all linears, ${(parameters / 1e6).toFixed(0)} M parameters in bf16`
  const row = (what: string, value: string, samples?: readonly number[]): Row => {
    return { what: `${about}: ${what}`, value, ...(samples && { samples }) }
  }
  const times = (what: string, samples: readonly number[]) =>
    row(what, `${quantile(samples, 0.5).toFixed(2)} s`, samples)
  const rssOf = (samples: readonly Sample[]) => samples.map(({ rssMiB }) => rssMiB)
  const peaks = (whose: string, samples: readonly Sample[]) => {
    const sizes = rssOf(samples)
    return row(`peak resident memory, ${whose}`, `${quantile(sizes, 0.5).toFixed(0)} MiB`, sizes)
  }
  const over = (a: readonly number[], b: readonly number[]) => quantile(a, 0.5) / quantile(b, 0.5)
  const ratio = (what: string, value: number) => row(what, `${value.toFixed(2)}×`)
  const secondsOf = (samples: readonly Sample[]) => samples.map(({ seconds }) => seconds)
  const mine = secondsOf(ours)
  return [
    times('sidepath, whole process, on disk', mine),
    peaks('sidepath', ours),
    ...peers.flatMap(({ name, samples, alone }) => [
      times(`${name}, whole process`, secondsOf(samples)),
      times(`${name}, without its imports`, alone),
      ratio(`sidepath's time over that of ${name}`, over(mine, secondsOf(samples))),
      ratio(`sidepath's time over that of ${name}, without its imports`, over(mine, alone)),
      peaks(name, samples),
      ratio(`sidepath's peak over that of ${name}`, over(rssOf(ours), rssOf(samples))),
    ]),
    times('cp of the weights', copies),
    times('cp of the weights, on disk', durableCopies),
    row('share of the speed of cp, both on disk', percent(over(durableCopies, mine))),
    row('share of the speed of cp that leaves the bytes in memory', percent(over(copies, mine))),
  ]
}

interface PeerResult {
  readonly seconds: number
  readonly maxRssKiB: number
}

/** `script`: in this folder; prints a `PeerResult` as its last line. */
function openPeer(name: string, python: string, script: string) {
  const samples: Sample[] = []
  const alone: number[] = []
  const run = (...args: string[]): PeerResult => {
    const { stdout } = finish(python, [join(import.meta.dirname, script), ...args])
    return JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
  }
  return { name, samples, alone, run }
}

/**
 * Every sample starts alike: the input in the page cache, as much memory as the output takes freed a moment ago, no
 * output, and nothing to write back.
 */
async function timed<T>(weights: string, out: string, run: () => T): Promise<{ seconds: number; result: T }> {
  await rm(out, { recursive: true, force: true })
  await copyFile(weights, out)
  await rm(out)
  execFileSync('sync')
  const started = performance.now()
  const result = run()
  return { seconds: (performance.now() - started) / 1000, result }
}

/** Seconds until `cp` ended; the bytes are on disk when this does. */
function copy(from: string, to: string): number {
  const started = performance.now()
  execFileSync('cp', [from, to])
  const seconds = (performance.now() - started) / 1000
  flush(to)
  return seconds
}

/** KiB of peak memory. */
function runOurs(base: string, adapter: string, out: string): number {
  const cli = join(import.meta.dirname, '../cli/bin.js')
  const options = ['--base', base, '--adapter', `adapter=${adapter}`, '--out', out, '--format', 'safetensors', '--json']
  const { stderr } = finish(process.execPath, ['--import', SAY_PEAK, cli, 'merge', ...options])
  return Number(stderr.trim().split('\n').at(-1))
}

function finish(command: string, args: readonly string[]): { stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${status}\n${stderr}`)
  return { stdout, stderr }
}

function flush(path: string): void {
  const file = openSync(path, 'r')
  fsyncSync(file)
  closeSync(file)
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`
}
