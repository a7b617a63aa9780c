// The processes of bench/gateway: the upstream, what is measured against it, and the registry that the gateway decides on.
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { type Admin, adminOf } from '../cli/up/admin.ts'
import { freePort } from '../test/e2e/running.ts'
import type { Shot } from './gateway-load.ts'

export interface Target {
  readonly name: string
  /** Of the process that does its work; workerd's is a child of it. */
  readonly pid: number
  shots(stream: boolean): readonly Shot[]
}

const READY_MS = 90_000
const POLL_MS = 50
const PATH = '/v1/chat/completions'
/** A gateway sees more than one caller; more would measure the same cache. */
const KEYS = 64
const SECRETS = {
  PEPPERS: JSON.stringify({ current: '1', keys: { 1: Buffer.alloc(32, 7).toString('base64') } }),
  CAPABILITY_SECRET: 'a-capability-secret-of-a-benchmark-0123456789',
}
const NODE_SECRETS = {
  SIDEPATH_PEPPERS: SECRETS.PEPPERS,
  SIDEPATH_CAPABILITY_SECRET: SECRETS.CAPABILITY_SECRET,
  SIDEPATH_ENVIRONMENT: 'local',
}
const BASE = createHash('sha256').update('base').digest('hex')

const folder = mkdtempSync(join(tmpdir(), 'sidepath-bench-gateway-'))
const children: ChildProcess[] = []
/** Where each process writes its lines, as it would under a supervisor. */
const logOf = (name: string) => join(folder, `${name}.log`)

export async function endAll(): Promise<void> {
  await Promise.all(
    children.splice(0).map((child) => {
      const ended = new Promise((resolve) => child.on('close', resolve))
      // A profile is written by a process that ends in good order.
      child.kill(process.env.PROFILE === undefined ? 'SIGKILL' : 'SIGTERM')
      return child.exitCode === null && child.signalCode === null ? ended : undefined
    }),
  )
  rmSync(folder, { recursive: true, force: true })
}

/** Starts Node on a script; resolves with the line that says it is ready. */
async function start(name: string, args: readonly string[], env: Record<string, string>, ready: RegExp) {
  const output = openSync(logOf(name), 'a')
  const child = spawn(process.execPath, [...extraFlags(name), ...args], {
    cwd: join(import.meta.dirname, '..'),
    env: { ...process.env, ...env },
    stdio: ['ignore', output, output],
  })
  children.push(child)
  const { pid = 0 } = child
  const deadline = Date.now() + READY_MS
  for (;;) {
    const printed = readFileSync(logOf(name), 'utf8')
    const line = ready.exec(printed)?.[0]
    if (line !== undefined) return { line, pid }
    if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}: ${printed.slice(0, 2000)}`)
    if (Date.now() > deadline) throw new Error(`${name} was not ready in ${READY_MS} ms: ${printed.slice(0, 2000)}`)
    await delay(POLL_MS)
  }
}

/** `PROFILE=<folder>`: each thread of each process leaves a CPU profile there. */
function extraFlags(name: string): string[] {
  const { PROFILE } = process.env
  return PROFILE === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${join(PROFILE, name)}`]
}

export async function startUpstream(): Promise<{ target: Target; url: string }> {
  const port = await freePort()
  const { pid } = await start('upstream', ['bench/gateway-upstream.ts'], { PORT: String(port) }, /ready/)
  return {
    url: `http://127.0.0.1:${port}`,
    target: { name: 'direct', pid, shots: (stream) => [shot(port, {}, stream)] },
  }
}

/** `@portkey-ai/gateway` from the folder that PORTKEY names; it is no dependency of ours. */
export async function startPortkey(upstream: string): Promise<Target> {
  const { PORTKEY } = process.env
  if (PORTKEY === undefined) {
    throw new Error(
      'PORTKEY is not set: name a folder whose package.json has @portkey-ai/gateway 1.15.2 as dependency and ' +
        '{"overrides": {"@hono/node-server": "1.13.8"}}: with a newer one it answers 500',
    )
  }
  const port = await freePort()
  const script = join(PORTKEY, 'node_modules/@portkey-ai/gateway/build/start-server.js')
  const { pid } = await start('portkey', [script, `--port=${port}`, '--headless'], { PORT: String(port) }, /.+/)
  const headers = {
    authorization: 'Bearer none',
    'x-portkey-provider': 'openai',
    'x-portkey-custom-host': `${upstream}/v1`,
  }
  await answering(port)
  return { name: 'portkey', pid, shots: (stream) => [shot(port, headers, stream)] }
}

export async function startPassThrough(host: 'node' | 'workerd', upstream: string): Promise<Target> {
  const port = await freePort()
  const env = { PORT: String(port), UPSTREAM: upstream }
  const { pid } = await start(`pass-through-${host}`, [`bench/gateway-${host}.ts`], env, /ready/)
  return { name: 'pass-through', pid, shots: (stream) => [shot(port, {}, stream)] }
}

export async function startNodeGateway(upstream: string, name: string, more: readonly string[]): Promise<Target> {
  const port = await freePort()
  const args = ['cli/bin.js', 'gateway', '--database', join(folder, `${name}.db`), ...more]
  const { line: adminKey } = await start(`${name}-key`, [...args, '--new-admin-key'], NODE_SECRETS, /sp_\w+/)
  const { pid } = await start(name, [...args, '--port', String(port)], NODE_SECRETS, /gateway on/)
  return seeded(name, pid, port, adminKey, upstream)
}

export async function startWorkerdGateway(upstream: string): Promise<Target> {
  const port = await freePort()
  const env = { ...SECRETS, PORT: String(port), FOLDER: join(folder, 'workerd') }
  const { line: ready, pid } = await start('workerd', ['bench/gateway-workerd.ts'], env, /ready sp_\w+/)
  return seeded('all duties', pid, port, ready.slice('ready '.length), upstream)
}

async function seeded(name: string, pid: number, port: number, adminKey: string, upstream: string): Promise<Target> {
  await answering(port)
  const keys = await seed(adminOf(`http://127.0.0.1:${port}`, adminKey), upstream)
  return {
    name,
    pid,
    shots: (stream) => keys.map((key) => shot(port, { authorization: `Bearer ${key}` }, stream)),
  }
}

/** A tenant whose users reach an experiment over two adapters by grants of their role. */
async function seed(admin: Admin, upstream: string): Promise<string[]> {
  await admin.put(`bases/${BASE}`, {})
  await admin.put('tenants/acme', { maxTokens: 512 })
  await admin.put('tenants/acme/roles/staff', {})
  for (const id of ['red', 'blue']) {
    const digest = createHash('sha256').update(id).digest('hex')
    await admin.put(`tenants/acme/adapters/${id}`, { name: id, version: 1, digest, base: BASE })
    await admin.put(`tenants/acme/grants/${id}`, {
      effect: 'allow',
      principal: { kind: 'role', id: 'staff' },
      resource: { kind: 'adapter', id },
    })
  }
  const arms = [
    { id: 'control', weight: 5000, adapter: 'red' },
    { id: 'variant', weight: 5000, adapter: 'blue' },
  ]
  await admin.put('tenants/acme/experiments/colours', { arms })
  await admin.patch('tenants/acme/experiments/colours', { status: 'running' })
  await admin.put('tenants/acme/models/assistant', { experiment: 'colours' })
  await admin.put('backends/fixed', { url: upstream, base: BASE })
  // Budgets that count each request and are never used up: a refusal would be no answer.
  await admin.put(`tenants/acme/prices/base`, {
    resource: { kind: 'base', digest: BASE },
    promptPrice: 200_000,
    completionPrice: 800_000,
  })
  for (const [id, kind, metric, window, amount] of [
    ['rate', 'each-key', 'requests', 'minute', 100_000_000],
    ['tokens', 'each-user', 'tokens', 'day', 1_000_000_000_000],
    ['money', 'tenant', 'cost', 'day', 1_000_000_000_000],
  ] as const) {
    await admin.put(`tenants/acme/limits/${id}`, { scope: { kind }, metric, window, amount })
  }
  const keys: string[] = []
  for (let i = 0; i < KEYS; i++) {
    await admin.put(`tenants/acme/users/u${i}`, { roles: ['staff'] })
    keys.push(await admin.mintKey('acme', `u${i}`))
  }
  return keys
}

async function answering(port: number): Promise<void> {
  const deadline = Date.now() + READY_MS
  while (Date.now() < deadline) {
    const answered = await fetch(`http://127.0.0.1:${port}/`).catch(() => undefined)
    await answered?.body?.cancel()
    if (answered !== undefined) return
    await delay(POLL_MS)
  }
  throw new Error(`nothing answers on port ${port} after ${READY_MS} ms`)
}

function shot(port: number, headers: Record<string, string>, stream: boolean): Shot {
  const body = JSON.stringify({
    model: 'assistant',
    messages: [{ role: 'user', content: 'Where is my order, and when will it be here?' }],
    max_tokens: 64,
    ...(stream && { stream: true }),
  })
  return { port, path: PATH, headers: { 'content-type': 'application/json', ...headers }, body }
}

/** Seconds of processor that a process and its children have taken, as Linux counts them; undefined elsewhere. */
export function processorSeconds(pid: number): number | undefined {
  const parents = new Map<number, number[]>()
  const seconds = new Map<number, number>()
  try {
    for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
      const stat = readStat(name)
      if (stat === undefined) continue
      seconds.set(Number(name), (Number(stat[11]) + Number(stat[12])) / TICKS_PER_SECOND)
      parents.set(Number(stat[1]), [...(parents.get(Number(stat[1])) ?? []), Number(name)])
    }
  } catch {
    return undefined
  }
  const sum = (of: number): number =>
    (seconds.get(of) ?? 0) + (parents.get(of) ?? []).reduce((total, child) => total + sum(child), 0)
  return sum(pid)
}

const TICKS_PER_SECOND = 100

/** What follows the name of the command, which may hold anything. Undefined: it ended meanwhile. */
function readStat(pid: string): string[] | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'latin1')
      .replace(/^.*\) /s, '')
      .split(' ')
  } catch {
    return undefined
  }
}
