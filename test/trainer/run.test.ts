// Whole runs by the command line: killed and taken up again, with bad data, on a full disk; and what they leave.
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { appendFile, cp, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readChanges } from '../../compiler/adapter/read-changes.ts'
import { openCheckpoint } from '../../compiler/checkpoint/read.ts'
import { openFolder, openWorkFolder } from '../../runtime/disk.ts'

const run = promisify(execFile)
const CLI = join(import.meta.dirname, '../../cli/bin.js')
const DEMO = join(import.meta.dirname, '../../examples/demo')
const TIMEOUT_MS = 240_000

let folder: string
let data: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sidepath-train-'))
  data = join(folder, 'data.jsonl')
  const lines = (await readFile(join(DEMO, 'heldout.jsonl'), 'utf8')).trim().split('\n').slice(0, 24)
  const messages = lines.map((line) => {
    const { prompt, clauses } = JSON.parse(line) as { prompt: string; clauses: string }
    return JSON.stringify({
      messages: [
        { role: 'user', content: prompt },
        { role: 'assistant', content: clauses },
      ],
    })
  })
  await writeFile(data, `${messages.join('\n')}\n`)
})

afterAll(() => rm(folder, { recursive: true, force: true }))

const args = (out: string, ...more: string[]) => [
  CLI,
  'train',
  ...['--base', join(DEMO, 'base'), '--data', data, '--out', out, '--threads', '1', '--json'],
  ...['--steps', '9', '--batch', '2', '--save-every', '2', '--eval-every', '3', '--eval-share', '0.1', '--r', '3'],
  ...more,
]
const train = async (out: string, ...more: string[]) =>
  JSON.parse((await run(process.execPath, args(out, ...more))).stdout) as Record<string, unknown>
const failed = (promise: Promise<unknown>) =>
  promise.then(
    () => {
      throw new Error('the command went through')
    },
    (error: { stderr: string; code: number }) => error,
  )

const metricsOf = async (out: string) => {
  const lines = (await readFile(join(out, 'metrics.jsonl'), 'utf8').catch(() => '')).trim().split('\n')
  return lines.filter((line) => line.endsWith('}')).map((line) => JSON.parse(line) as Record<string, number>)
}

/** Kills the process, by the signal that nothing can catch, once it has done so many steps. */
async function killAfter(child: ChildProcess, out: string, step: number): Promise<void> {
  const ended = new Promise((resolve) => child.once('exit', resolve))
  for (;;) {
    if ((await metricsOf(out)).some((line) => (line.step ?? 0) >= step)) break
    if (child.exitCode !== null) throw new Error('the run ended before it was killed')
    await new Promise((resolve) => setImmediate(resolve))
  }
  child.kill('SIGKILL')
  await ended
}

/** Without what a clock says. */
const figures = async (out: string) => (await metricsOf(out)).map(({ seconds: _, ...line }) => line)

describe('a run that is killed', () => {
  it.each([
    ['plain', ['--dropout', '0.2', '--accumulate', '2', '--packing', '--max-length', '128', '--lora-plus', '4']],
    ['with DoRA, on int4', ['--dora', '--quantize', 'int4', '--recompute', '--patience', '5']],
    ['with PiSSA', ['--init', 'pissa', '--target-modules', 'q_proj', '--rslora']],
  ])('and taken up again ends with the same bytes: %s', { timeout: TIMEOUT_MS }, async (name, more) => {
    const [whole, broken] = [join(folder, `${name} whole`), join(folder, `${name} broken`)]
    const result = await train(whole, ...more)
    expect(result).toMatchObject({ step: 9, isFinished: true })
    const child = spawn(process.execPath, args(broken, ...more), { stdio: 'ignore' })
    await killAfter(child, broken, 5)
    const resumed = await train(broken, ...more, '--resume')
    expect(resumed).toMatchObject({ step: 9, isFinished: true, baseDigest: result.baseDigest })
    for (const file of ['adapter_model.safetensors', 'adapter_config.json']) {
      expect(await readFile(join(broken, 'adapter', file))).toEqual(await readFile(join(whole, 'adapter', file)))
    }
    expect(await readFile(join(broken, 'checkpoint.safetensors'))).toEqual(
      await readFile(join(whole, 'checkpoint.safetensors')),
    )
    expect(await figures(broken)).toEqual(await figures(whole))
    const config = JSON.parse(await readFile(join(whole, 'config.json'), 'utf8')) as {
      result: unknown
      trainable: number
    }
    expect(config.result).toMatchObject({ step: 9, trainable: config.trainable })
    expect(await readFile(join(whole, 'loss.svg'), 'utf8')).toMatch(/^<svg .*<polyline/s)
  })

  it('before its first step leaves a folder that a run may begin in', { timeout: TIMEOUT_MS }, async () => {
    const out = join(folder, 'early')
    const child = spawn(process.execPath, args(out), { stdio: 'ignore' })
    const ended = new Promise((resolve) => child.once('exit', resolve))
    while (!(await readdir(out).catch(() => [])).some((name) => name.startsWith('.work.'))) {
      await new Promise((resolve) => setImmediate(resolve))
    }
    child.kill('SIGKILL')
    await ended
    expect(await readdir(out)).toEqual([expect.stringMatching(/^\.work\..*\.partial$/)])
    await train(out, '--target-modules', 'q_proj', '--steps', '1')
    expect((await readdir(out)).sort()).toEqual([
      'adapter',
      'checkpoint.safetensors',
      'config.json',
      'loss.svg',
      'metrics.jsonl',
    ])
  })

  it('by Ctrl-C ends after the step that it is in, with a checkpoint, and says how to go on', {
    timeout: TIMEOUT_MS,
  }, async () => {
    const out = join(folder, 'interrupted')
    const more = ['--target-modules', 'q_proj', '--steps', '1000', '--save-every', '1000']
    const child = spawn(
      process.execPath,
      args(out, ...more).filter((arg) => arg !== '--json'),
      {
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    )
    let said = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        said += chunk.toString()
      })
    }
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
    while ((await figures(out)).length < 3) await new Promise((resolve) => setImmediate(resolve))
    child.kill('SIGINT')
    expect(await ended).toBe(130)
    expect(said).toMatch(/stopping after this step, with a checkpoint; Ctrl-C again stops at once/)
    expect(said).toMatch(/interrupted after \d+ s; the same command with --resume goes on from here/)
    const { length } = (await figures(out)).filter((line) => line.loss !== undefined)
    const resumed = spawn(process.execPath, args(out, ...more, '--resume'), { stdio: 'ignore' })
    await killAfter(resumed, out, length + 1)
    expect(
      (await figures(out))
        .filter((line) => line.loss !== undefined)
        .map(({ step }) => step)
        .slice(0, length + 1),
    ).toEqual(Array.from({ length: length + 1 }, (_, at) => at + 1))
  })

  it('is not taken up with other options or other data', { timeout: TIMEOUT_MS }, async () => {
    const out = join(folder, 'other')
    await train(out, '--target-modules', 'q_proj')
    const other = await failed(train(out, '--target-modules', 'q_proj', '--lr', '1e-3', '--resume'))
    expect(other.stderr).toMatch(/another base, other data or other options/)
    expect(other.code).toBe(1)
    const again = await failed(train(out, '--target-modules', 'q_proj'))
    expect(again.stderr).toMatch(/is not empty; add --resume/)
    const none = await failed(train(join(folder, 'none'), '--resume'))
    expect(none.stderr).toMatch(/holds no run/)
  })
})

it('leaves an adapter that the compiler accepts, every tensor of it', { timeout: TIMEOUT_MS }, async () => {
  const out = join(folder, 'adapter')
  await train(out, '--rank-pattern', 'down_proj=5', '--target-modules', 'mlp')
  const checkpoint = await openCheckpoint(openFolder(join(DEMO, 'base')))
  const read = await readChanges({ name: 'a', folder: openFolder(join(out, 'adapter')) }, checkpoint.tensors)
  await checkpoint.close()
  expect(read.changes).toHaveLength(4 * 3)
  expect(read.changes.map((change) => change.kind === 'low-rank' && [change.r, change.scaling]).slice(0, 3)).toEqual([
    [5, 6 / 5],
    [3, 2],
    [3, 2],
  ])
  const before = await run(process.execPath, [CLI, 'inspect', join(out, 'adapter'), '--json'])
  expect(before.stdout).toContain('down_proj')
})

describe('data', () => {
  it('with a bad line is refused by file and line, before anything is written', { timeout: TIMEOUT_MS }, async () => {
    const bad = join(folder, 'bad.jsonl')
    await cp(data, bad)
    await appendFile(bad, '{"messages": 3}\n')
    const out = join(folder, 'refused')
    const error = await failed(run(process.execPath, [...args(out), '--data', bad]))
    expect(error.stderr).toMatch(/bad\.jsonl:25: the line/)
    expect(error.code).toBe(1)
    await expect(readFile(join(out, 'config.json'))).rejects.toThrow()
  })

  it('with a bad line is trained on without it where that is asked for', { timeout: TIMEOUT_MS }, async () => {
    const bad = join(folder, 'skipped.jsonl')
    await cp(data, bad)
    await appendFile(bad, 'half a li')
    const out = join(folder, 'skipped')
    const more = ['--data', bad, '--bad-lines', 'skip', '--target-modules', 'q_proj', '--steps', '1']
    const { stdout, stderr } = await run(process.execPath, [...args(out), ...more])
    expect(stderr).toMatch(/skipped: .*skipped\.jsonl:25: the line is not JSON/)
    expect(JSON.parse(stdout)).toMatchObject({ step: 1, isFinished: true })
  })
})

describe('a full disk', () => {
  it('leaves the last good checkpoint, and the run goes on from it', { timeout: TIMEOUT_MS }, async () => {
    const [whole, full] = [join(folder, 'roomy'), join(folder, 'full')]
    const more = ['--target-modules', 'q_proj', '--save-every', '1', '--steps', '40']
    await train(whole, ...more)
    const child = spawn(process.execPath, args(full, ...more), { stdio: 'ignore' })
    await killAfter(child, full, 3)
    // From then on no file of the process may be longer than 16 kB: a checkpoint is, a line of metrics is not.
    const limited = spawn(process.execPath, args(full, ...more, '--resume'), { stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    limited.stderr?.on('data', (chunk: Buffer) => {
      said += chunk.toString()
    })
    const ended = new Promise<number | null>((resolve) => limited.once('exit', resolve))
    const { length } = await figures(full)
    while ((await figures(full)).length <= length) await new Promise((resolve) => setImmediate(resolve))
    await run('prlimit', ['--pid', String(limited.pid), '--fsize=16384'])
    expect(await ended).toBe(1)
    expect(said).toMatch(/the disk is full while writing/)
    const { readHeader } = await import('../../compiler/safetensors/read.ts')
    const file = await openFolder(full).open('checkpoint.safetensors')
    expect((await readHeader(file!)).tensors.size).toBe(3)
    await file?.close()
    await train(full, ...more, '--resume')
    expect(await readFile(join(full, 'adapter/adapter_model.safetensors'))).toEqual(
      await readFile(join(whole, 'adapter/adapter_model.safetensors')),
    )
  })

  it.runIf(existsSync('/dev/full'))(
    'that says so in the middle of a checkpoint leaves the one before, byte for byte',
    { timeout: TIMEOUT_MS },
    async () => {
      const [whole, full] = [join(folder, 'enough'), join(folder, 'enospc')]
      const more = ['--target-modules', 'q_proj', '--steps', '12']
      await train(whole, ...more)
      const child = spawn(process.execPath, args(full, ...more), { stdio: 'ignore' })
      await killAfter(child, full, 5)
      const state = join(full, 'checkpoint.safetensors')
      const before = await readFile(state)
      // What is written there, the kernel answers with ENOSPC.
      await symlink('/dev/full', `${state}.partial`)
      const error = await failed(train(full, ...more, '--resume'))
      expect(error.stderr).toMatch(/the disk is full while writing/)
      expect(error.code).toBe(1)
      expect(await readFile(state)).toEqual(before)
      await train(full, ...more, '--resume')
      for (const file of ['adapter/adapter_model.safetensors', 'checkpoint.safetensors']) {
        expect(await readFile(join(full, file))).toEqual(await readFile(join(whole, file)))
      }
    },
  )

  it('never leaves half a file in place of a whole one', async () => {
    const work = await openWorkFolder(join(folder, 'work'))
    await work.replace('state', Uint8Array.of(1, 2, 3))
    await expect(work.replace('state', undefined as unknown as Uint8Array)).rejects.toThrow()
    expect(Array.from(await readFile(join(folder, 'work/state')))).toEqual([1, 2, 3])
    await expect(readFile(join(folder, 'work/state.partial'))).rejects.toThrow(/ENOENT/)
    await expect(work.replace('../outside', Uint8Array.of(1))).rejects.toThrow(/outside the folder/)
  })
})
