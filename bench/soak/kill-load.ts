// Backends behind a gateway are killed at random moments while tenants ask, each for an adapter of its own whose answers
// are known. What comes before the end of a stream, and what comes whole, has to be the tenant's own.
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { type Admin, adminOf } from '../../cli/up/admin.ts'
import type { Manifest } from '../../compiler/contract.ts'
import { paths } from '../../gpu-backend/contract.ts'
import { freePort } from '../../test/e2e/running.ts'
import { ask, type Outcome } from './ask.ts'
import { isBeginning } from './compare.ts'
import { randomFrom } from './random.ts'
import { type SpawnedBackend, spawnBackend } from './spawn-backend.ts'

export interface KillOptions {
  readonly artifact: string
  readonly manifest: Manifest
  readonly scratch: string
  readonly kills: number
  readonly seed: number
}

export interface KillResult {
  /** From the start of the process until it serves. */
  readonly readyMs: number[]
  /** From there, where no backend was left, until a request was answered again. */
  readonly answeredAgainMs: number[]
  whole: number
  /** Before the first byte, by code; the gateway had nobody to turn to. */
  readonly refused: Record<string, number>
  /** After it: an event that says so. */
  interrupted: number
  /** None of these may be. */
  readonly wrong: { tenant: string; found: Outcome }[]
}

const CAPABILITY_SECRET = 'a secret of the killed, long enough for HS256'
const SECRETS = {
  SIDEPATH_PEPPERS: JSON.stringify({ current: '1', keys: { 1: Buffer.alloc(32, 7).toString('base64') } }),
  SIDEPATH_CAPABILITY_SECRET: CAPABILITY_SECRET,
  SIDEPATH_ENVIRONMENT: 'local',
}
const ROOT = join(import.meta.dirname, '..', '..')
const CLIENTS_A_TENANT = 2
/** Long enough to be cut in the middle. */
const ANSWER_TOKENS = 48
const PROMPTS = ['In the', 'Hi, my printer is on fire. It began on 3 May 2027.', 'The fee is due within thirty days.']
/** Of the demo's tokenizer: with the end token out of the way, answers are as long as they may be. */
const END_ID = 2
/** Longer than any answer here takes: who waits so long was forgotten. */
const HUNG_MS = 30_000
const PAUSE_MS = 50

interface Tenant {
  readonly name: string
  readonly model: string
  readonly key: string
}

export async function killBackends(options: KillOptions): Promise<KillResult> {
  const { artifact, manifest, scratch, kills, seed } = options
  const ports = [await freePort(), await freePort()]
  const start = (port: number) =>
    spawnBackend({ artifact, secret: CAPABILITY_SECRET, port, slots: 4, maxRows: 6, threads: 2 })
  const backends = await Promise.all(ports.map(start))
  const gateway = await startGateway(join(scratch, 'gateway.db'))
  try {
    const tenants = await seedRegistry(gateway.admin, manifest, backends)
    const alone = await answersAlone(gateway.url, tenants)
    const result: KillResult = { readyMs: [], answeredAgainMs: [], whole: 0, refused: {}, interrupted: 0, wrong: [] }
    let answered = 0
    let over = false
    const client = async (tenant: Tenant, at: number): Promise<void> => {
      const { next, pick } = randomFrom(seed * 13 + at)
      while (!over) {
        const prompt = pick(PROMPTS)
        const found = await put(gateway.url, tenant, prompt, next(3) > 0)
        if (found.kind === 'answer') answered = performance.now()
        if (!judge(result, found, alone.get(`${tenant.name} ${prompt}`)!))
          result.wrong.push({ tenant: tenant.name, found })
        if (found.kind !== 'answer') await delay(PAUSE_MS)
      }
    }
    const clients = tenants.flatMap((tenant, at) =>
      Array.from({ length: CLIENTS_A_TENANT }, (_, index) => client(tenant, 100 * at + index)),
    )
    const { next } = randomFrom(seed)
    for (let killed = 0; killed < kills; ) {
      await delay(100 + next(900))
      // In turns one of them, and both: then nobody is left to turn to.
      const at = killed % 3 === 2 && killed + 2 <= kills ? [0, 1] : [next(2)]
      killed += at.length
      await Promise.all(at.map((index) => backends[index]!.end('SIGKILL')))
      const again = await Promise.all(at.map((index) => start(ports[index]!)))
      for (const [order, index] of at.entries()) {
        backends[index] = again[order]!
        result.readyMs.push(Math.round(again[order]!.readyMs))
      }
      const ready = performance.now()
      while (at.length === 2 && answered < ready && performance.now() - ready < HUNG_MS) await delay(5)
      if (at.length === 2) result.answeredAgainMs.push(Math.round(performance.now() - ready))
    }
    over = true
    await Promise.all(clients)
    return result
  } finally {
    await Promise.all([...backends.map((backend) => backend.end('SIGKILL')), gateway.end()])
  }
}

/** False for what may not be. */
function judge(result: KillResult, found: Outcome, alone: Extract<Outcome, { kind: 'answer' }>): boolean {
  if (!isBeginning(found.said, alone.said)) return false
  if (found.kind === 'answer') {
    result.whole += 1
    return found.said[0]?.text === alone.said[0]!.text && found.said[0]?.finish === 'length'
  }
  if (found.kind !== 'error') return false
  if (found.begun) {
    result.interrupted += 1
    return found.code === 'upstream_interrupted'
  }
  result.refused[`${found.status} ${found.code}`] = (result.refused[`${found.status} ${found.code}`] ?? 0) + 1
  return [429, 502, 503].includes(found.status)
}

async function answersAlone(url: string, tenants: readonly Tenant[]) {
  const answers = new Map<string, Extract<Outcome, { kind: 'answer' }>>()
  for (const prompt of PROMPTS) {
    const texts = new Set<string>()
    for (const tenant of tenants) {
      const found = await put(url, tenant, prompt, false)
      if (found.kind !== 'answer') throw new Error(`a request alone was not answered: ${JSON.stringify(found)}`)
      answers.set(`${tenant.name} ${prompt}`, found)
      texts.add(found.said[0]!.text.slice(0, 12))
    }
    if (texts.size !== tenants.length) throw new Error(`the tenants' answers to "${prompt}" cannot be told apart`)
  }
  return answers
}

function put(url: string, { key, model }: Tenant, prompt: string, stream: boolean): Promise<Outcome> {
  const body = { model, prompt, temperature: 0, max_tokens: ANSWER_TOKENS, logit_bias: { [END_ID]: -100 } }
  return ask({ url: url + paths.completions, bearer: key, body, stream, hungMs: HUNG_MS })
}

async function seedRegistry(
  admin: Admin,
  { base, adapters }: Manifest,
  backends: readonly SpawnedBackend[],
): Promise<Tenant[]> {
  await admin.put(`bases/${base.digest}`, {})
  const tenants: Tenant[] = []
  for (const { name: model, digest } of adapters) {
    const name = `only-${model}`
    const at = `tenants/${name}`
    await admin.put(at, { maxTokens: 512 })
    await admin.put(`${at}/roles/staff`, {})
    await admin.put(`${at}/users/somebody`, { roles: ['staff'] })
    await admin.put(`${at}/adapters/${model}`, { name: model, version: 1, digest, base: base.digest })
    await admin.put(`${at}/models/${model}`, { adapter: model })
    const resource = { kind: 'adapter', id: model }
    await admin.put(`${at}/grants/${model}`, { effect: 'allow', principal: { kind: 'role', id: 'staff' }, resource })
    tenants.push({ name, model, key: await admin.mintKey(name, 'somebody') })
  }
  for (const [at, { url }] of backends.entries()) await admin.put(`backends/b${at}`, { url, base: base.digest })
  return tenants
}

async function startGateway(database: string): Promise<{ url: string; admin: Admin; end(): Promise<void> }> {
  const env = { ...process.env, ...SECRETS }
  const args = [join(ROOT, 'cli', 'bin.js'), 'gateway', '--database', database, '--durability', 'process']
  const { stdout } = await promisify(execFile)(process.execPath, [...args, '--new-admin-key'], { env })
  const port = await freePort()
  const child: ChildProcess = spawn(process.execPath, [...args, '--port', `${port}`], {
    env,
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  let printed = ''
  const isUp = new Promise<void>((resolve, reject) => {
    child.stdout!.on('data', (chunk) => {
      printed += chunk
      if (printed.includes('gateway on http')) resolve()
    })
    child.once('exit', () => reject(new Error('the gateway ended')))
  })
  await isUp
  const url = `http://127.0.0.1:${port}`
  return {
    url,
    admin: adminOf(url, stdout.trim()),
    end() {
      child.kill('SIGKILL')
      return gone
    },
  }
}
