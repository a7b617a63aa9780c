// The soak: requests of every kind at a real backend, over HTTP, while adapters come and go, clients hang up and others
// load; each answer is compared with that of the same request alone.
import { createHash } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { type Capability, paths } from '../../gpu-backend/contract.ts'
import { claimsOf, mint, SECRET } from '../../test/backend/mint.ts'
import { ask, type Outcome } from './ask.ts'
import { differenceOf, isBeginning } from './compare.ts'
import { type Question, questions } from './questions.ts'
import { randomFrom } from './random.ts'
import { type SpawnedBackend, spawnBackend } from './spawn-backend.ts'

export interface SoakOptions {
  /** A routed artifact with adapters. */
  readonly artifact: string
  readonly digests: readonly string[]
  readonly scratch: string
  readonly seconds: number
  readonly seed: number
  readonly questions?: number
}

export interface SoakResult {
  /** Answers that were compared whole. */
  equal: number
  different: { question: Question; found: Outcome; alone: Outcome }[]
  /** Hung up in the middle, and what had come was the beginning of the answer alone. */
  aborted: number
  /** 429: nobody was answered wrongly. */
  refused: number
  /** Other errors, by code. */
  readonly failed: Record<string, number>
  readonly loads: Record<string, number>
  /** A file of NaN, asked for again and again: refused each time. */
  badRefused: number
  badServed: number
  tokens: number
  /** Of a log-probability to that of the request alone. */
  furthest: number
  /** What the backend says when nobody asks any more. */
  idle: Record<string, number>
  hitTokens: number
  /** Bytes, a sample a second, from the start of the load. */
  rss: number[]
}

const SLOTS = 2
const CLIENTS = 8
const TENANTS = ['acme', 'birch', 'cedar', 'dune']
const BUDGETS = { kvBudgetBytes: 64 * 2 ** 20, prefixBudgetBytes: 16 * 2 ** 20, hostBudgetBytes: 2 ** 20 }

export async function soak(options: SoakOptions): Promise<SoakResult> {
  const { artifact, digests, scratch, seconds, seed } = options
  const store = join(scratch, 'store')
  const bad = await writeNaNs(artifact, digests[0]!, store)
  const backend = await spawnBackend({
    artifact,
    secret: SECRET,
    port: 0,
    slots: SLOTS,
    bankRank: 64,
    maxRows: 6,
    storeDirs: [store],
    threads: 2,
    ...BUDGETS,
  })
  try {
    const all = questions(options.questions ?? 48, digests, randomFrom(seed))
    const alone: Outcome[] = []
    for (const question of all) alone.push(await put(backend, question, { tenant: 'alone', stream: false }))
    const wrong = alone.find(({ kind }) => kind !== 'answer')
    if (wrong !== undefined) throw new Error(`a request alone was not answered: ${JSON.stringify(wrong)}`)
    const result = emptyResult()
    const before = backend.rss.length
    const until = performance.now() + seconds * 1000
    const clients = Array.from({ length: CLIENTS }, (_, at) => client(backend, all, alone, seed + at, until, result))
    await Promise.all([...clients, loader(backend, digests, bad, seed, until, result)])
    result.rss.push(...backend.rss.slice(before))
    // A row that was hung up leaves before the next run of the graph.
    await delay(1_000)
    await readIdle(backend, result)
    return result
  } finally {
    await backend.end('SIGTERM')
  }
}

async function client(
  backend: SpawnedBackend,
  all: readonly Question[],
  alone: readonly Outcome[],
  seed: number,
  until: number,
  result: SoakResult,
): Promise<void> {
  const { next, pick } = randomFrom(seed * 7919 + 1)
  while (performance.now() < until) {
    const index = next(all.length)
    const question = all[index]!
    const expected = alone[index]!
    const stream = next(3) > 0
    const abortAfter = stream && next(6) === 0 ? 1 + next(5) : undefined
    const found = await put(backend, question, { tenant: pick(TENANTS), stream, abortAfter })
    const differs = (): void => void result.different.push({ question, found, alone: expected })
    if (found.kind === 'answer') {
      const furthest = differenceOf(found.said, expected.kind === 'answer' ? expected.said : [])
      if (furthest === undefined) differs()
      else {
        result.equal += 1
        result.tokens += found.tokens
        result.furthest = Math.max(result.furthest, furthest)
      }
    } else if (found.kind === 'aborted') {
      if (expected.kind === 'answer' && isBeginning(found.said, expected.said)) result.aborted += 1
      else differs()
    } else if (found.kind === 'error' && found.status === 429) result.refused += 1
    else count(result.failed, found.kind === 'error' ? found.code : 'cut')
  }
}

/** Adapters come and go beside the rows, and one that is bad never comes. */
async function loader(
  backend: SpawnedBackend,
  digests: readonly string[],
  bad: string,
  seed: number,
  until: number,
  result: SoakResult,
): Promise<void> {
  const { next, pick } = randomFrom(seed * 31 + 5)
  while (performance.now() < until) {
    await delay(20 + next(80))
    const act = next(3)
    if (act === 2) {
      const question = { path: paths.completions, body: { prompt: 'In the', max_tokens: 2 }, adapter: bad }
      const found = await put(backend, question, { tenant: 'acme', stream: false })
      if (found.kind === 'error' && found.code === 'adapter_refused') result.badRefused += 1
      else if (found.kind !== 'error' || found.status !== 429) result.badServed += 1
      continue
    }
    const given = act === 0 ? ({ act: 'load' } as const) : ({ act: 'admin' } as const)
    const bearer = await mint(claimsOf(backend.base, { ...given, adapter: pick(digests) }))
    const path = act === 0 ? paths.load : paths.unload
    const response = await fetch(backend.url + path, { method: 'POST', headers: { authorization: `Bearer ${bearer}` } })
    await response.arrayBuffer()
    count(result.loads, `${act === 0 ? 'load' : 'unload'} ${response.status}`)
  }
}

interface Put {
  readonly tenant: string
  readonly stream: boolean
  readonly abortAfter?: number | undefined
}

async function put({ url, base }: SpawnedBackend, question: Question, { tenant, ...how }: Put): Promise<Outcome> {
  const bearer = await mint(claimsOf(base, { tenant, adapter: question.adapter } satisfies Partial<Capability>))
  return ask({ url: url + question.path, bearer, body: question.body, ...how })
}

async function readIdle({ url, base }: SpawnedBackend, result: SoakResult): Promise<void> {
  const bearer = await mint(claimsOf(base, { act: 'admin' }))
  const text = await (await fetch(url + paths.metrics, { headers: { authorization: `Bearer ${bearer}` } })).text()
  const read = (name: string): number =>
    Number(
      text
        .split('\n')
        .find((line) => line.startsWith(`${name}{`))
        ?.split(' ')
        .at(-1),
    )
  for (const name of ['vllm:num_requests_running', 'vllm:num_requests_waiting', 'vllm:kv_cache_usage_perc']) {
    result.idle[name] = read(name)
  }
  result.idle.slotsInUse = SLOTS - read('sidepath_adapter_slots_free')
  result.hitTokens = read('vllm:prefix_cache_hits_total')
}

/** An adapter whose last numbers are NaN, under the digest that it then has. */
async function writeNaNs(artifact: string, digest: string, store: string): Promise<string> {
  const bytes = await readFile(join(artifact, 'adapters', `${digest}.safetensors`))
  bytes.fill(0xff, bytes.length - 64)
  const found = createHash('sha256').update(bytes).digest('hex')
  await mkdir(store, { recursive: true })
  await writeFile(join(store, `${found}.safetensors`), bytes)
  return found
}

function emptyResult(): SoakResult {
  return {
    equal: 0,
    different: [],
    aborted: 0,
    refused: 0,
    failed: {},
    loads: {},
    badRefused: 0,
    badServed: 0,
    tokens: 0,
    furthest: 0,
    idle: {},
    hitTokens: 0,
    rss: [],
  }
}

function count(of: Record<string, number>, key: string): void {
  of[key] = (of[key] ?? 0) + 1
}
