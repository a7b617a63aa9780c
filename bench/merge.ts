// Merging a LoRA adapter of r = 16 on all linears into a checkpoint in bfloat16: ours, PEFT's and `cp`, alternating, each
// in a process of its own. PYTHON names an interpreter with transformers and peft.
import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, fsyncSync, openSync } from 'node:fs'
import { copyFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LARGE, type Size, SMALL, writeAdapter, writeBase } from './merge-fixture.ts'
import { quantile, type Row, record } from './record.ts'

const SAMPLES = 5
const PYTHON = process.env.PYTHON ?? 'python3'

/** Says the peak of the process's resident memory at its end, in KiB. */
const SAY_PEAK = "data:text/javascript,process.on('exit',()=>console.error(process.resourceUsage().maxRSS))"

interface Sample {
  readonly seconds: number
  readonly rssMiB: number
}

const scratch = await mkdtemp(join(tmpdir(), 'sidepath-bench-merge-'))
const rows: Row[] = []
try {
  for (const size of [SMALL, LARGE]) rows.push(...(await measure(size)))
} finally {
  await rm(scratch, { recursive: true, force: true })
}
record('merge', 'PYTHON=<python with peft> node bench/merge.ts', rows)

async function measure(size: Size): Promise<Row[]> {
  const folder = await mkdtemp(join(scratch, 'size-'))
  const [base, adapter, out] = ['base', 'adapter', 'out'].map((name) => join(folder, name)) as [string, string, string]
  const parameters = await writeBase(base, size)
  await writeAdapter(adapter, base, size)
  const weights = join(base, 'model.safetensors')
  const ours: Sample[] = []
  const peft: Sample[] = []
  const peftAlone: number[] = []
  const copies: number[] = []
  const durableCopies: number[] = []
  const contenders = [
    async () => {
      const { seconds, result } = await timed(weights, out, () => runOurs(base, adapter, out))
      return () => ours.push({ seconds, rssMiB: result / 1024 })
    },
    async () => {
      const { seconds, result } = await timed(weights, out, () => runPeft(base, adapter, out))
      return () => {
        peft.push({ seconds, rssMiB: result.maxRssKiB / 1024 })
        peftAlone.push(result.seconds)
      }
    },
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
  const what = `merge r=16 on all linears, ${(parameters / 1e6).toFixed(0)} M parameters in bf16`
  const seconds = (samples: readonly number[]) => ({ value: `${quantile(samples, 0.5).toFixed(2)} s`, samples })
  const mebibytes = (samples: readonly number[]) => ({ value: `${quantile(samples, 0.5).toFixed(0)} MiB`, samples })
  const [mine, theirs] = [ours.map(({ seconds }) => seconds), peft.map(({ seconds }) => seconds)]
  const [myRss, theirRss] = [ours.map(({ rssMiB }) => rssMiB), peft.map(({ rssMiB }) => rssMiB)]
  const over = (a: readonly number[], b: readonly number[]) => quantile(a, 0.5) / quantile(b, 0.5)
  return [
    { what: `${what}: sidepath, whole process, on disk`, ...seconds(mine) },
    { what: `${what}: PEFT merge_and_unload + save_pretrained, whole process`, ...seconds(theirs) },
    { what: `${what}: PEFT without its imports`, ...seconds(peftAlone) },
    { what: `${what}: sidepath's time over PEFT's without its imports`, value: `${over(mine, peftAlone).toFixed(2)}×` },
    { what: `${what}: peak resident memory, sidepath`, ...mebibytes(myRss) },
    { what: `${what}: peak resident memory, PEFT`, ...mebibytes(theirRss) },
    { what: `${what}: sidepath's peak over PEFT's`, value: `${over(myRss, theirRss).toFixed(2)}×` },
    { what: `${what}: cp of the weights`, ...seconds(copies) },
    { what: `${what}: cp of the weights, on disk`, ...seconds(durableCopies) },
    { what: `${what}: share of the speed of cp, both on disk`, value: percent(over(durableCopies, mine)) },
    { what: `${what}: share of the speed of cp that leaves the bytes in memory`, value: percent(over(copies, mine)) },
  ]
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

function runPeft(...args: string[]): { seconds: number; maxRssKiB: number } {
  const { stdout } = finish(PYTHON, [join(import.meta.dirname, 'peft-merge.py'), ...args])
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
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
