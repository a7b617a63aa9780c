// `sidepath pull` as a user runs it: from the environment, ended by kill -9 and Ctrl-C, and run again.
import { type ChildProcess, spawn } from 'node:child_process'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { sidepath } from '../e2e/running.ts'
import { FILES, filesOf, type Pulling, readRecord, startPulling, USUAL, WEIGHTS, WEIGHTS_BYTES } from './pulling.ts'
import { REPO } from './stand-in.ts'

const BIN = join(import.meta.dirname, '..', '..', 'cli', 'bin.js')
const TOKEN = 'hf_of-the-environment'
const SENT = 131_072

let pulling: Pulling
beforeEach(async () => {
  pulling = await startPulling()
  pulling.hub.token = TOKEN
})
afterEach(() => pulling[Symbol.asyncDispose]())

interface Ended {
  readonly code: number | NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

function start(...args: string[]): { child: ChildProcess; ended: Promise<Ended> } {
  const env = { ...process.env, HF_ENDPOINT: pulling.hub.url, HF_TOKEN: TOKEN }
  const child = spawn(process.execPath, [BIN, 'pull', ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  const said = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]!.on('data', (chunk) => {
      said[name] += chunk
    })
  }
  const ended = new Promise<Ended>((resolve) =>
    child.on('close', (code, signal) => resolve({ code: code ?? signal, ...said })),
  )
  return { child, ended }
}

/** Sends the beginning of the first shard and no more; resolves once it is on its way. */
function stallWeights(): Promise<void> {
  return new Promise((resolve) => {
    pulling.hub.intercept = (kind, request, response) => {
      if (kind !== 'cdn' || !request.url!.includes('00001')) return false
      response.writeHead(200, { 'content-length': WEIGHTS_BYTES })
      response.write(FILES[WEIGHTS]!.subarray(0, SENT), () => resolve())
      return true
    }
  })
}

/** Resolves when so much of the shard is on disk. */
async function onDisk(bytes: number): Promise<void> {
  const partial = join(`${pulling.out}.partial`, `${WEIGHTS}.partial`)
  for (;;) {
    const there = await stat(partial).catch(() => undefined)
    if (there?.size === bytes) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

describe('the command', () => {
  it('takes the Hub and the token from the environment, and says what it pulled as JSON', async () => {
    const { code, stdout, stderr } = await start(`hf:${REPO}@main`, '--out', pulling.out, '--json').ended
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const { seconds, ...result } = JSON.parse(stdout)
    expect(seconds).toBeGreaterThan(0)
    expect(result).toEqual({ ...((await readRecord(pulling.out)) as object), out: pulling.out, pulled: true })
    expect(stdout).not.toContain(TOKEN)
  })

  it('ends with 1 and a sentence, without the token, where the Hub refuses', async () => {
    pulling.hub.token = 'hf_another'
    const { code, stdout, stderr } = await start(`hf:${REPO}`, '--out', pulling.out).ended
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^sidepath: acme\/tiny-llama: .*HF_TOKEN.*\n$/)
    expect(stderr).not.toContain(TOKEN)
  })

  it.each(['SIGKILL', 'SIGINT'] as const)('that %s ended goes on where it was', async (signal) => {
    const stalled = stallWeights()
    const { child, ended } = start(`hf:${REPO}`, '--out', pulling.out)
    await stalled
    await onDisk(SENT)
    child.kill(signal)
    const { code, stderr } = await ended
    expect(code).toBe(signal === 'SIGINT' ? 130 : 'SIGKILL')
    if (signal === 'SIGINT') expect(stderr).toMatch(/run the same command to go on/)
    await expect(stat(pulling.out)).rejects.toThrow('ENOENT')

    pulling.hub.intercept = () => false
    pulling.hub.seen.length = 0
    const again = await start(`hf:${REPO}`, '--out', pulling.out).ended
    expect(again.code, again.stderr).toBe(0)
    const shard = pulling.hub.seen.filter(({ kind, url }) => kind === 'cdn' && url.includes('00001'))
    expect(shard.map(({ range }) => range)).toEqual([`bytes=${SENT}-`])
    expect(await filesOf(pulling.folder)).toEqual(
      [...USUAL, 'sidepath-pull.json'].sort().map((path) => join('out', path)),
    )
  })
})

describe('other verbs', () => {
  it.each([
    ['compile', ['--base', 'hf:acme/x', '--out', '/nowhere/out']],
    ['merge', ['--base', 'hf:acme/x@v1', '--adapter', 'a=./a', '--out', '/nowhere/out']],
    ['merge', ['--base', '.', '--adapter', 'hf:acme/x@v1', '--out', '/nowhere/out']],
    ['inspect', ['hf:acme/x']],
  ])('%s says to pull first', async (verb, args) => {
    const { code, stderr } = await sidepath([verb, ...args])
    expect(code).toBe(1)
    expect(stderr).toMatch(/sidepath pull hf:acme\/x(@v1)? --out \.\/x`/)
  })
})
