// Starts `sidepath` as a user does, in a process of its own, and waits until it is ready.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

const ROOT = join(import.meta.dirname, '..', '..')
const READY_WITHIN_MS = 60_000
const POLL_MS = 100

export interface Demo {
  gatewayUrl: string
  backendUrl: string
  adminKey: string
  tenants: { name: string; key: string; models: string[] }[]
}

export interface Running {
  readonly process: ChildProcess
  readonly demo: Demo
  readonly dataDir: string
  /** Everything that it printed so far. */
  output(): string
  /** Sends the signal to the process and resolves with its exit code or signal. */
  end(signal: NodeJS.Signals): Promise<number | NodeJS.Signals>
}

/** Runs one command to its end. */
export async function sidepath(args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [join(ROOT, 'cli', 'bin.js'), ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk) => {
    stdout += chunk
  })
  child.stderr.on('data', (chunk) => {
    stderr += chunk
  })
  const code = await new Promise<number>((resolve) => child.on('close', (status) => resolve(status ?? -1)))
  return { code, stdout, stderr }
}

export async function startUp(options: { dataDir: string; port: number; backendPort: number }): Promise<Running> {
  const { dataDir, port, backendPort } = options
  const args = ['up', '--port', `${port}`, '--backend-port', `${backendPort}`, '--data-dir', dataDir]
  const child = spawn(process.execPath, [join(ROOT, 'cli', 'bin.js'), ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  const keep = (chunk: Buffer) => {
    output += chunk
  }
  child.stdout.on('data', keep)
  child.stderr.on('data', keep)
  const ended = new Promise<number | NodeJS.Signals>((resolve) =>
    child.on('close', (code, signal) => resolve(signal ?? code ?? -1)),
  )
  const deadline = Date.now() + READY_WITHIN_MS
  for (;;) {
    if (child.exitCode !== null) throw new Error(`sidepath up ended with ${child.exitCode}:\n${output}`)
    if (Date.now() > deadline) throw new Error(`sidepath up was not ready in ${READY_WITHIN_MS} ms:\n${output}`)
    const health = await fetch(`http://127.0.0.1:${port}/healthz`).catch(() => undefined)
    if (health?.status === 200) break
    await delay(POLL_MS)
  }
  return {
    process: child,
    dataDir,
    demo: JSON.parse(await readFile(join(dataDir, 'demo.json'), 'utf8')),
    output: () => output,
    async end(signal) {
      child.kill(signal)
      return ended
    },
  }
}

/** A port that nothing listens on at the moment. */
export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

export async function temporaryFolder(): Promise<{ path: string; remove(): Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), 'sidepath-test-'))
  return { path, remove: () => rm(path, { recursive: true, force: true }) }
}
