// A mix of public names → the adapters in it. Each part is authorised as if it were asked for alone.
import type { Capability, Mix } from '../../gpu-backend/contract.ts'
import { badRequest } from '../errors.ts'
import { decide, type Policy } from '../policy/policy.ts'
import type { AdapterTarget } from '../policy/resolve-grants.ts'
import { type NamedPart, WEIGHT_STEPS } from './parse-model.ts'

export interface MixedPart {
  readonly adapter: AdapterTarget
  readonly weight: number
  readonly grantId: string
}

export interface MixTarget {
  readonly kind: 'mix'
  readonly baseDigest: string
  readonly parts: readonly [MixedPart, ...MixedPart[]]
}

function choosePart(policy: Policy, { name, weight }: NamedPart, now: number): MixedPart | undefined {
  const serves = policy.registry.models.get(name)?.serves
  if (serves?.kind !== 'target' || serves.target.kind !== 'adapter') return undefined
  const decision = decide(policy, serves.target, now)
  return decision.allowed ? { adapter: serves.target, weight, grantId: decision.grantId } : undefined
}

/**
 * Undefined where any part is unknown, forbidden, an experiment or a bare base: it does not exist as an adapter for this
 * caller, and nothing else is looked at, so that no answer depends on such a part. Throws 400 `invalid_mix` about parts
 * that the caller may use, all of them.
 */
export function chooseMix(policy: Policy, named: readonly NamedPart[], now: number): MixTarget | undefined {
  const chosen = named.map((part) => choosePart(policy, part, now))
  const [first, ...others] = chosen.filter((part) => part !== undefined)
  if (first === undefined || others.length + 1 < named.length) return undefined
  const { baseDigest } = first.adapter
  if (others.some(({ adapter }) => adapter.baseDigest !== baseDigest)) {
    throw badRequest(
      "Invalid parameter 'model': the adapters of the mix are of different bases.",
      'invalid_mix',
      'model',
    )
  }
  const target: MixTarget = { kind: 'mix', baseDigest, parts: [first, ...others] }
  if (claimedParts(target).length === 0) {
    throw badRequest("Invalid parameter 'model': the weights of the mix cancel out.", 'invalid_mix', 'model')
  }
  return target
}

/** Two names may lead to one adapter: its weights add up. */
function claimedParts({ parts }: MixTarget): Mix {
  const steps = new Map<string, number>()
  for (const { adapter, weight } of parts) {
    steps.set(adapter.digest, (steps.get(adapter.digest) ?? 0) + Math.round(weight * WEIGHT_STEPS))
  }
  return [...steps]
    .filter(([, count]) => count !== 0)
    .map(([digest, count]) => ({ digest, weight: count / WEIGHT_STEPS }))
}

/** The capability's `adapter`: one adapter at weight 1 is that adapter, and shares its slot. */
export function claimedAdapter(target: MixTarget): Capability['adapter'] {
  const parts = claimedParts(target)
  const [first, ...others] = parts
  return first?.weight === 1 && others.length === 0 ? first.digest : parts
}
