// A soak of the gateway on Node with libSQL: for MINUTES at RATE requests a second, JSON and streams, callers who hang up,
// backends that answer 500, cut a stream, are killed and come back. Then its usage rows are counted against what the
// upstreams themselves wrote down: a request that a backend saw and that has no row, an open row, or one whose tokens are
// not those that were given, is an error of ours; so is memory that is kept. Then it ends with 1. RATE and MINUTES are 200
// and 30.
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { adminOf } from '../cli/up/admin.ts'
import { freePort } from '../test/e2e/running.ts'
import { uniform } from '../test/gateway/peeking.ts'
import { type Answered, compareUsage } from './gateway-soak-usage.ts'
import { quantile, type Row, record } from './record.ts'

const RATE = Number(process.env.RATE ?? 200)
const MINUTES = Number(process.env.MINUTES ?? 30)
const SEED = 20_261_124
const KEYS = 64
const READY_MS = 90_000
const POLL_MS = 50
const SAMPLE_MS = 5_000
/** More than the gateway could owe at this rate while both backends are away: what comes beyond is not sent, and said. */
const MAX_UNDER_WAY = 2_000
/** Of a minute: one backend is killed at its start and is away for as long. */
const AWAY_MS = 10_000
/** Every so many minutes the other one dies as well. */
const BOTH_EVERY_MINUTES = 5
const BOTH_AWAY_MS = 3_000
const DRAIN_MS = 60_000
/**
 * Of what is left after a collection, from a third of the run to its end: caches are full by then, and half an hour at
 * 200 requests/s has 240,000 requests to come, so that 35 bytes kept of each would show.
 */
const MAX_KEPT_MIB = 8
/** Garbage that grew old waits for a large collection, so resident memory rises by steps; half an hour came to 532. */
const MAX_RESIDENT_MIB = 640
const COLLECT_MS = 5_000
const BASE = createHash('sha256').update('base').digest('hex')
const SECRETS = {
  SIDEPATH_PEPPERS: JSON.stringify({ current: '1', keys: { 1: Buffer.alloc(32, 7).toString('base64') } }),
  SIDEPATH_CAPABILITY_SECRET: 'a-capability-secret-of-a-benchmark-0123456789',
  SIDEPATH_ENVIRONMENT: 'local',
}

const folder = mkdtempSync(join(tmpdir(), 'sidepath-soak-'))
const children = new Set<ChildProcess>()

/** What a process prints goes nowhere once it has said that it is ready: half an hour of log lines is nobody's. */
async function start(args: readonly string[], env: Record<string, string>, ready: RegExp) {
  const child = spawn(process.execPath, args, {
    cwd: join(import.meta.dirname, '..'),
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  children.add(child)
  child.once('close', () => children.delete(child))
  let printed = ''
  const line = await new Promise<string>((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`${args[0]} was not ready: ${printed.slice(0, 2000)}`)), READY_MS)
    child.once('close', () => reject(new Error(`${args[0]} ended: ${printed.slice(0, 2000)}`)))
    child.stdout.on('data', (chunk: Buffer) => {
      if (printed.length < 10_000) printed += chunk
      const found = ready.exec(printed)?.[0]
      if (found === undefined) return
      clearTimeout(late)
      resolve(found)
    })
  })
  return { child, line }
}

class Upstream {
  readonly log: string
  readonly url: string
  readonly #port: number
  #child: ChildProcess | undefined

  constructor(port: number) {
    this.#port = port
    this.url = `http://127.0.0.1:${port}`
    this.log = join(folder, `upstream-${port}.log`)
    closeSync(openSync(this.log, 'a'))
  }

  async start(): Promise<void> {
    const env = { PORT: String(this.#port), LOG: this.log, BASE }
    this.#child = (await start(['bench/gateway-soak-upstream.ts'], env, /ready/)).child
  }

  /** As if the machine's memory had run out: no goodbye. */
  async dieFor(ms: number): Promise<void> {
    this.#child?.kill('SIGKILL')
    await delay(ms)
    await this.start()
  }
}

async function seed(url: string, adminKey: string, upstreams: readonly Upstream[]): Promise<string[]> {
  const admin = adminOf(url, adminKey)
  await admin.put(`bases/${BASE}`, {})
  await admin.put('tenants/acme', { maxTokens: 64 })
  await admin.put('tenants/acme/roles/staff', {})
  for (const id of ['red', 'blue']) {
    const digest = createHash('sha256').update(id).digest('hex')
    await admin.put(`tenants/acme/adapters/${id}`, { name: id, version: 1, digest, base: BASE })
    const principal = { kind: 'role', id: 'staff' }
    await admin.put(`tenants/acme/grants/${id}`, { effect: 'allow', principal, resource: { kind: 'adapter', id } })
  }
  const arms = ['red', 'blue'].map((id) => ({ id, weight: 5000, adapter: id }))
  await admin.put('tenants/acme/experiments/colours', { arms })
  await admin.patch('tenants/acme/experiments/colours', { status: 'running' })
  await admin.put('tenants/acme/models/assistant', { experiment: 'colours' })
  await admin.put('tenants/acme/prices/all', {
    resource: { kind: 'base', digest: BASE },
    promptPrice: 1_000,
    completionPrice: 2_000,
  })
  const day = { window: 'day', amount: 1e12 } as const
  await admin.put('tenants/acme/limits/tokens', { scope: { kind: 'tenant' }, metric: 'tokens', ...day })
  await admin.put('tenants/acme/limits/requests', { scope: { kind: 'each-user' }, metric: 'requests', ...day })
  for (const [at, upstream] of upstreams.entries()) {
    await admin.put(`backends/b${at}`, { url: upstream.url, base: BASE })
  }
  const keys: string[] = []
  for (let i = 0; i < KEYS; i++) {
    await admin.put(`tenants/acme/users/u${i}`, { roles: ['staff'] })
    keys.push(await admin.mintKey('acme', `u${i}`))
  }
  return keys
}

/** What is asked, by chance: mostly ordinary, a few of each kind of trouble. */
function makeAsk(next: () => number) {
  const dice = next()
  const tokens = `${5 + Math.floor(40 * next())} ${6 + Math.floor(20 * next())}`
  if (dice < 0.5) return { stream: false, hangUp: false, content: `well ${tokens}` }
  if (dice < 0.88) return { stream: true, hangUp: false, content: `well ${tokens}` }
  if (dice < 0.92) return { stream: true, hangUp: false, content: `slow ${tokens}` }
  if (dice < 0.96) return { stream: true, hangUp: true, content: `slow ${tokens}` }
  if (dice < 0.98) return { stream: true, hangUp: false, content: `cut ${tokens}` }
  return { stream: dice < 0.99, hangUp: false, content: `fail ${tokens}` }
}

const agent = new Agent({ keepAlive: true, maxSockets: 512 })
const latenciesMs: number[] = []

function send(port: number, key: string, ask: ReturnType<typeof makeAsk>): Promise<Answered> {
  const { stream, hangUp, content } = ask
  const body = JSON.stringify({ model: 'assistant', messages: [{ role: 'user', content }], max_tokens: 64, stream })
  const sentAt = performance.now()
  return new Promise((resolve) => {
    const headers = {
      authorization: `Bearer ${key}`,
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
    }
    const call = request({ agent, port, host: '127.0.0.1', path: '/v1/chat/completions', method: 'POST', headers })
    let id = ''
    let status = 0
    let end = ''
    call.on('error', () => resolve({ id, status, isWhole: false, hungUp: hangUp }))
    call.on('response', (response) => {
      id = String(response.headers['x-request-id'])
      status = response.statusCode ?? 0
      response.on('data', (chunk: Buffer) => {
        end = (end + chunk.toString('latin1')).slice(-20)
        if (hangUp) call.destroy()
      })
      response.on('error', () => {})
      response.on('close', () => {
        const isWhole = status === 200 && response.complete && (!stream || end.endsWith('data: [DONE]\n\n'))
        if (isWhole && !content.startsWith('slow')) latenciesMs.push(performance.now() - sentAt)
        resolve({ id, status, isWhole, hungUp: hangUp })
      })
    })
    call.end(body)
  })
}

const residentMiB = (pid: number): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? Number.NaN) / 1024

/** What the gateway holds once its garbage is collected. */
async function keptMiB(gateway: ChildProcess, log: string): Promise<number> {
  const read = () => readFileSync(log, 'utf8').split('\n').slice(0, -1)
  const before = read().length
  gateway.kill('SIGUSR2')
  for (const until = performance.now() + COLLECT_MS; read().length === before; await delay(POLL_MS)) {
    if (performance.now() > until) throw new Error('the gateway did not say what it holds')
  }
  return Number(read().at(-1)) / 2 ** 20
}

/** Least squares, MiB a minute. */
function slope(samples: readonly number[]): number {
  const n = samples.length
  const minutes = samples.map((_, at) => (at * SAMPLE_MS) / 60_000)
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / n
  const [x, y] = [mean(minutes), mean(samples)]
  const over = minutes.reduce((sum, minute, at) => sum + (minute - x) * ((samples[at] ?? 0) - y), 0)
  return over / minutes.reduce((sum, minute) => sum + (minute - x) ** 2, 0)
}

async function killNowAndThen(upstreams: readonly Upstream[], isOver: () => boolean): Promise<number> {
  let deaths = 0
  for (let minute = 0; !isOver(); minute++) {
    await delay(20_000)
    if (isOver()) break
    const both = minute % BOTH_EVERY_MINUTES === BOTH_EVERY_MINUTES - 1
    const dying = both ? upstreams : upstreams.slice(minute % 2, (minute % 2) + 1)
    deaths += dying.length
    await Promise.all(dying.map((upstream) => upstream.dieFor(both ? BOTH_AWAY_MS : AWAY_MS)))
    await delay(40_000 - (both ? BOTH_AWAY_MS : AWAY_MS))
  }
  return deaths
}

async function run(): Promise<Row[]> {
  const upstreams = [new Upstream(await freePort()), new Upstream(await freePort())]
  await Promise.all(upstreams.map((upstream) => upstream.start()))
  const port = await freePort()
  const database = join(folder, 'gateway.db')
  const args = ['cli/bin.js', 'gateway', '--database', database, '--port', String(port)]
  const { line: adminKey } = await start([...args, '--new-admin-key'], SECRETS, /sp_\w+/)
  const heapLog = join(folder, 'heap.log')
  closeSync(openSync(heapLog, 'a'))
  const watched = ['--expose-gc', '--import', './bench/heap-after-gc.ts', ...args]
  const gateway = (await start(watched, { ...SECRETS, HEAP_LOG: heapLog }, /gateway on/)).child
  const pid = gateway.pid ?? 0
  const keys = await seed(`http://127.0.0.1:${port}`, adminKey, upstreams)

  const next = uniform(SEED)
  const answers: Answered[] = []
  const resident: number[] = []
  const started = performance.now()
  const endAt = started + MINUTES * 60_000
  let [sent, unsent, underWay, isOver] = [0, 0, 0, false]
  const sampling = setInterval(() => resident.push(residentMiB(pid)), SAMPLE_MS)
  const keptEarly = delay((MINUTES * 60_000) / 3).then(() => keptMiB(gateway, heapLog))
  const killing = killNowAndThen(upstreams, () => isOver)
  while (performance.now() < endAt) {
    const due = Math.floor(((performance.now() - started) * RATE) / 1000)
    for (; sent + unsent < due; ) {
      const ask = makeAsk(next)
      if (underWay >= MAX_UNDER_WAY) {
        unsent += 1
        continue
      }
      sent += 1
      underWay += 1
      void send(port, keys[sent % KEYS] ?? '', ask).then((answered) => {
        underWay -= 1
        answers.push(answered)
      })
    }
    await delay(5)
  }
  const seconds = (performance.now() - started) / 1000
  isOver = true
  clearInterval(sampling)
  const drained = performance.now() + DRAIN_MS
  while (underWay > 0 && performance.now() < drained) await delay(POLL_MS)
  const kept = [await keptEarly, await keptMiB(gateway, heapLog)] as const
  // An orderly end: what the gateway still owes its database is written before it goes.
  const ended = new Promise((resolve) => gateway.once('close', resolve))
  gateway.kill('SIGTERM')
  await ended
  const deaths = await killing
  const found = compareUsage(
    database,
    upstreams.map(({ log }) => log),
    answers,
  )

  const half = resident.slice(Math.floor(resident.length / 2))
  const fifth = Math.max(1, Math.floor(resident.length / 5))
  const mib = (value: number) => `${value.toFixed(1)} MiB`
  const during = `${MINUTES} minutes at ${RATE} requests/s`
  const errors = [
    ...found.rows.filter(({ isError, value }) => isError && value !== 0).map(({ what, value }) => `${what}: ${value}`),
    ...(kept[1] - kept[0] > MAX_KEPT_MIB ? [`memory that is kept: ${mib(kept[0])}, later ${mib(kept[1])}`] : []),
    ...(Math.max(...resident) > MAX_RESIDENT_MIB ? [`resident memory: ${mib(Math.max(...resident))}`] : []),
  ]
  for (const error of errors) console.error(`an error of ours: ${error}`)
  if (errors.length > 0) process.exitCode = 1
  return [
    {
      what: `${during}: sent`,
      value: `${sent} (${(sent / seconds).toFixed(1)}/s), ${unsent} held back, ${underWay} unanswered`,
    },
    { what: `${during}: backends killed`, value: `${deaths} times` },
    ...found.rows.map(({ what, value }) => ({ what: `${during}: ${what}`, value: String(value) })),
    {
      what: `${during}: a whole answer, p50 and p95`,
      value: `${quantile(latenciesMs, 0.5).toFixed(1)} ms, ${quantile(latenciesMs, 0.95).toFixed(1)} ms`,
    },
    {
      what: `${during}: resident memory of the gateway, second and last fifth, most`,
      value: `${mib(quantile(resident.slice(fifth, 2 * fifth), 0.5))}, ${mib(quantile(resident.slice(-fifth), 0.5))}, ${mib(Math.max(...resident))}`,
      samples: resident.map(Math.round),
    },
    {
      what: `${during}: heap of the gateway after a collection, at a third and at the end`,
      value: `${mib(kept[0])}, ${mib(kept[1])}`,
    },
    { what: `${during}: growth over the second half`, value: `${slope(half).toFixed(2)} MiB a minute` },
  ]
}

try {
  record('gateway-soak', 'node bench/gateway-soak.ts', await run())
} finally {
  for (const child of children) child.kill('SIGKILL')
  if (process.env.KEEP === undefined) rmSync(folder, { recursive: true, force: true })
  agent.destroy()
}
