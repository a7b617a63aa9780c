// The verb as a process: what it prints, what it leaves, and what a signal in the middle leaves.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, open, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { TINY } from '../compiler/folders.ts'

const CLI = new URL('../../cli/', import.meta.url)
/** One verb in a process of its own, as cli/main.ts runs it. */
const RUN = `
  import { fail } from '${new URL('fail.ts', CLI)}'
  import { mergeCheckpointCommand, unmergeCheckpointCommand } from '${new URL('merge.ts', CLI)}'
  const [verb, options] = process.argv.slice(1)
  const run = verb === 'unmerge' ? unmergeCheckpointCommand : mergeCheckpointCommand
  await run(JSON.parse(options)).catch(fail)`
const ZEROS_BYTES = 3 * 2 ** 30

let parent: string

beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), 'sidepath-merge-'))
})

afterEach(() => rm(parent, { recursive: true, force: true }))

function start(...args: string[]): ChildProcess {
  return spawn(process.execPath, ['--input-type=module', '-e', RUN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
}

async function finish(child: ChildProcess): Promise<{ code: number | null; stdout: string; stderr: string }> {
  let [stdout, stderr] = ['', '']
  child.stdout?.on('data', (data) => {
    stdout += data
  })
  child.stderr?.on('data', (data) => {
    stderr += data
  })
  const [code] = await once(child, 'close')
  return { code, stdout, stderr }
}

describe('merge', () => {
  it('writes a folder beside the base and says what it changed', async () => {
    const out = join(parent, 'out')
    const options = { base: join(TINY, 'base'), adapter: [`b*0.5=${join(TINY, 'b')}`, join(TINY, 'a')], out }
    const { code, stdout, stderr } = await finish(start('merge', JSON.stringify(options)))
    expect([code, stderr]).toEqual([0, ''])
    expect(stdout).toMatch(/merged checkpoint, \d+ of \d+ tensors changed/)
    expect((await readdir(out)).sort()).toEqual((await readdir(join(TINY, 'base'))).sort())
    expect(await readdir(parent)).toEqual(['out'])
    const again = await finish(start('merge', JSON.stringify({ ...options, out: join(parent, 'twice'), json: true })))
    expect(JSON.parse(again.stdout)).toMatchObject({
      out: join(parent, 'twice'),
      adapters: [{ name: 'b', weight: 0.5 }, { name: 'a' }],
    })
    const [one, two] = await Promise.all(
      ['out', 'twice'].map((name) => readFile(join(parent, name, 'model.safetensors'))),
    )
    expect(one).toEqual(two)
    const undone = await finish(
      start('unmerge', JSON.stringify({ ...options, base: out, out: join(parent, 'undone') })),
    )
    expect(undone.stdout).toContain('not the same bits')
  })

  it('refuses a folder that is not empty, and a base that is none', async () => {
    const options = { base: join(TINY, 'base'), adapter: [join(TINY, 'a')], out: TINY }
    expect(await finish(start('merge', JSON.stringify(options)))).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('not empty'),
    })
    const nowhere = { ...options, base: join(parent, 'nowhere'), out: join(parent, 'out') }
    expect((await finish(start('merge', JSON.stringify(nowhere)))).code).toBe(1)
    expect(await readdir(parent)).toEqual([])
  })
})

describe('a signal in the middle of a merge', () => {
  /** A sparse file takes no place and a second or more to copy. */
  async function sparseBase(): Promise<string> {
    const base = join(parent, 'base')
    await cp(join(TINY, 'base'), base, { recursive: true })
    const file = await open(join(base, 'model.safetensors'), 'r+')
    const prefix = Buffer.alloc(8)
    await file.read(prefix, 0, 8, 0)
    const { size } = await file.stat()
    const text = Buffer.alloc(Number(prefix.readBigUInt64LE()))
    await file.read(text, 0, text.length, 8)
    const data = Buffer.alloc(size - 8 - text.length)
    await file.read(data, 0, data.length, 8 + text.length)
    const header = JSON.parse(text.toString())
    header.zeros = { dtype: 'U8', shape: [ZEROS_BYTES], data_offsets: [data.length, data.length + ZEROS_BYTES] }
    const bytes = Buffer.from(JSON.stringify(header))
    prefix.writeBigUInt64LE(BigInt(bytes.length))
    await file.write(Buffer.concat([prefix, bytes, data]), 0, undefined, 0)
    await file.truncate(8 + bytes.length + data.length + ZEROS_BYTES)
    await file.close()
    return base
  }

  async function interrupt(signal: 'SIGINT' | 'SIGTERM' | 'SIGKILL') {
    const options = { base: await sparseBase(), adapter: [join(TINY, 'a')], out: join(parent, 'out'), json: true }
    const child = start('merge', JSON.stringify(options))
    const end = finish(child)
    const isWriting = async () => {
      const staging = (await readdir(parent)).find((name) => name.endsWith('.partial'))
      return staging !== undefined && (await readdir(join(parent, staging)).catch(() => [])).length > 0
    }
    while (child.exitCode === null && !(await isWriting())) await new Promise((resolve) => setImmediate(resolve))
    child.kill(signal)
    return { ...(await end), left: (await readdir(parent)).filter((name) => name !== 'base') }
  }

  it.each(['SIGINT', 'SIGTERM'] as const)('%s leaves nothing', async (signal) => {
    expect(await interrupt(signal)).toMatchObject({ code: 130, stdout: '', left: [] })
  })

  it('SIGKILL leaves no output that looks finished, and nothing in the way of the next run', async () => {
    const { code, left } = await interrupt('SIGKILL')
    expect(code).toBeNull()
    expect(left.every((name) => name.endsWith('.partial'))).toBe(true)
    const options = { base: join(TINY, 'base'), adapter: [join(TINY, 'a')], out: join(parent, 'out') }
    expect((await finish(start('merge', JSON.stringify(options)))).code).toBe(0)
  })
})
