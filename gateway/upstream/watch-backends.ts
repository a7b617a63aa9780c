// What this isolate knows of each backend: whether it answers, how busy it says it is, and what went to it from here.
// Hints for the choice among replicas, and no more: nothing is authorised by them.
import type { World } from '../context.ts'
import { elapsed } from '../elapsed.ts'
import type { Backend } from '../policy/policy.ts'
import { readBounded } from '../read-body.ts'
import { abandon } from './abandon.ts'
import { afterFailure, type Breaker, beginTrial, CLOSED } from './breaker.ts'
import { readCredential, type Secrets } from './credential.ts'
import type { Load, UpstreamAddress } from './driver.ts'
import { readyBase } from './drivers/sidepath.ts'
import { DRIVERS } from './drivers.ts'

/** A load is stale soon; asking more often would be a load of its own. */
export const KEEP_MS = 2_000
/** Metrics of a server with many series; readiness is a line. */
const MAX_TEXT_BYTES = 1 << 20
/** Backends that are kept in mind: registries are far smaller. */
const MAX_WATCHED = 1_024
const LONG_AGO = Number.NEGATIVE_INFINITY

export interface Watched {
  breaker: Breaker
  /** False: its last answer was none. Until asked, it is held to be alive. */
  alive: boolean
  load: Load | undefined
  failedAt: number
  askedAt: number
  /** From here and not ended, by adapter. */
  readonly underWay: Map<string, number>
}

const worlds = new WeakMap<World, Map<string, Watched>>()

/** A backend that moves to another address is another backend. */
export function watchedOf(world: World, { id, url, prefix }: Backend): Watched {
  let all = worlds.get(world)
  if (all === undefined) {
    all = new Map()
    worlds.set(world, all)
  }
  const key = `${id} ${url}${prefix}`
  let watched = all.get(key)
  if (watched === undefined) {
    watched = {
      breaker: CLOSED,
      alive: true,
      load: undefined,
      failedAt: LONG_AGO,
      askedAt: LONG_AGO,
      underWay: new Map(),
    }
    all.set(key, watched)
    for (const oldest of all.keys()) {
      if (all.size <= MAX_WATCHED) break
      all.delete(oldest)
    }
  }
  return watched
}

/** Each backend that was asked from here, by its id. */
export function* allWatched(world: World): Generator<[id: string, watched: Watched]> {
  for (const [key, watched] of worlds.get(world) ?? []) yield [key.slice(0, key.indexOf(' ')), watched]
}

/** Counts a request as under way until `ended`, which may be called twice. */
export function beginRequest(world: World, backend: Backend, adapter: string) {
  const watched = watchedOf(world, backend)
  watched.breaker = beginTrial(watched.breaker, world.now())
  watched.underWay.set(adapter, (watched.underWay.get(adapter) ?? 0) + 1)
  let isUnderWay = true
  return {
    failed() {
      watched.failedAt = world.now()
      watched.breaker = afterFailure(watched.breaker, watched.failedAt)
    },
    succeeded() {
      watched.failedAt = LONG_AGO
      watched.breaker = CLOSED
    },
    ended() {
      if (!isUnderWay) return
      isUnderWay = false
      const left = (watched.underWay.get(adapter) ?? 1) - 1
      if (left > 0) watched.underWay.set(adapter, left)
      else watched.underWay.delete(adapter)
    },
  }
}

export const underWayAt = ({ underWay }: Watched): number =>
  [...underWay.values()].reduce((sum, count) => sum + count, 0)

/** Undefined: nothing came, or its credential is not there. */
async function get(
  world: World,
  address: UpstreamAddress,
  secrets: Secrets,
  path: string,
): Promise<Response | undefined> {
  try {
    const credential = readCredential(secrets, address.secret)
    return await world.fetch(address.url + address.prefix + path, {
      redirect: 'manual',
      signal: AbortSignal.timeout(world.timeouts.readinessMs),
      ...(credential === undefined ? {} : { headers: { authorization: `Bearer ${credential}` } }),
    })
  } catch {
    return undefined
  }
}

async function ask(
  world: World,
  address: UpstreamAddress,
  secrets: Secrets,
  path: string,
): Promise<string | undefined> {
  const response = await get(world, address, secrets, path)
  if (response?.status !== 200) {
    abandon(response?.body)
    return undefined
  }
  try {
    if (response.body === null) return ''
    const bytes = await readBounded(response.body, MAX_TEXT_BYTES)
    return bytes === null ? undefined : new TextDecoder().decode(bytes)
  } catch {
    return undefined
  }
}

/** Whether anybody is there. One that drains says that it is not ready, and still owes the answers that it began. */
export async function isThere(world: World, backend: UpstreamAddress, secrets: Secrets): Promise<boolean> {
  const { alivePath } = DRIVERS[backend.driver]
  if (alivePath === null) return true
  const response = await get(world, backend, secrets, alivePath)
  abandon(response?.body)
  return response !== undefined
}

const isSelf = (backend: Served, text: string | undefined) =>
  text !== undefined && (backend.driver !== 'sidepath' || readyBase(text) === backend.baseDigest)

type Served = UpstreamAddress & { readonly baseDigest: string }

/** Whether it could serve its base now, as far as it can be asked. */
export async function isAlive(world: World, backend: Served, secrets: Secrets): Promise<boolean> {
  const { alivePath } = DRIVERS[backend.driver]
  return alivePath === null || isSelf(backend, await ask(world, backend, secrets, alivePath))
}

/** Asks again where what is known is old. Nobody waits for it: a request goes by what is known when it begins. */
export async function refresh(world: World, backend: Backend, secrets: Secrets): Promise<void> {
  const watched = watchedOf(world, backend)
  const now = world.now()
  if (elapsed(now, watched.askedAt) < KEEP_MS) return
  watched.askedAt = now
  const { alivePath, metricsPath, readLoad } = DRIVERS[backend.driver]
  const once = (path: string | null) => (path === null ? undefined : ask(world, backend, secrets, path))
  const alive = once(alivePath)
  const metrics = await (metricsPath === alivePath ? alive : once(metricsPath))
  watched.alive = alivePath === null || isSelf(backend, await alive)
  watched.load = metrics === undefined ? undefined : readLoad(metrics)
}
