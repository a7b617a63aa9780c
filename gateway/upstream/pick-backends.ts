// Which backends may serve a request, the best first.
import type { Capability } from '../../gpu-backend/contract.ts'
import type { World } from '../context.ts'
import { elapsed } from '../elapsed.ts'
import { orderByAffinity } from '../experiment/hash-bucket.ts'
import type { Endpoint } from '../infer/parse-request.ts'
import type { Backend } from '../policy/policy.ts'
import { phaseOf } from './breaker.ts'
import type { Secrets } from './credential.ts'
import type { Part } from './driver.ts'
import { DRIVERS } from './drivers.ts'
import { scoreLora } from './score-lora.ts'
import { refresh, underWayAt, watchedOf } from './watch-backends.ts'

/** After a failure the other replicas come first for as long. */
const SHUNNED_MS = 10_000

type Adapter = Capability['adapter']

/** What the backend calls each adapter of the request; undefined where it cannot run it. */
export function partsOn(backend: Backend, adapter: Adapter): readonly Part[] | undefined {
  const driver = DRIVERS[backend.driver]
  const wanted = adapter === null ? [] : typeof adapter === 'string' ? [{ digest: adapter, weight: 1 }] : adapter
  if (typeof adapter !== 'string' && adapter !== null && !driver.mixes) return undefined
  const parts = wanted.flatMap(({ digest, weight }) => {
    const upstream = backend.driver === 'sidepath' ? digest : backend.adapters.get(digest)
    return upstream === undefined ? [] : [{ upstream, weight }]
  })
  return parts.length === wanted.length ? parts : undefined
}

/** One name for what takes a slot there: of a mix, all of it. */
export const slotName = (parts: readonly Part[]): string =>
  parts.map(({ upstream, weight }) => (weight === 1 ? upstream : `${upstream}*${weight}`)).join('+')

export function pickBackends(
  world: World,
  candidates: readonly Backend[],
  asked: { readonly endpoint: Endpoint; readonly adapter: Adapter; readonly requestId: string },
  secrets: Secrets,
  waitUntil: (work: Promise<unknown>) => void,
): readonly Backend[] {
  const { endpoint, adapter, requestId } = asked
  const able = candidates.filter(
    (backend) => DRIVERS[backend.driver].endpoints.includes(endpoint) && partsOn(backend, adapter) !== undefined,
  )
  // An adapter keeps to one backend, where it is resident, and so does a mix; bare-base requests spread.
  const key = adapter === null ? requestId : typeof adapter === 'string' ? adapter : JSON.stringify(adapter)
  const now = world.now()
  const open = orderByAffinity(able, key).filter(
    (backend) => phaseOf(watchedOf(world, backend).breaker, now) !== 'open',
  )
  if (open.length < 2) return open
  for (const backend of open) waitUntil(refresh(world, backend, secrets))
  const ranked = open.map((backend) => {
    const watched = watchedOf(world, backend)
    const name = slotName(partsOn(backend, adapter) ?? [])
    const isHere = name === '' || (watched.underWay.get(name) ?? 0) > 0
    return {
      backend,
      isLast: backend.draining,
      isDown: !watched.alive || elapsed(now, watched.failedAt) < SHUNNED_MS,
      lora: isHere ? 1 : scoreLora(watched.load, name),
      requests: Math.max(watched.load?.requests ?? 0, underWayAt(watched)),
    }
  })
  return ranked
    .sort(
      (a, b) =>
        Number(a.isLast) - Number(b.isLast) ||
        Number(a.isDown) - Number(b.isDown) ||
        b.lora - a.lora ||
        a.requests - b.requests,
    )
    .map(({ backend }) => backend)
}
