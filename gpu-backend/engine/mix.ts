// A mix such as `a*0.7 + b*0.3`: what it is known by, and its factors, which fill one slot like those of any adapter.
import { createHash } from 'node:crypto'
import { canonicalJson, compareCodePoints } from '../../compiler/canonical-json.ts'
import { InputError } from '../../compiler/errors.ts'
import { type MixPart, mixAdapters } from '../../compiler/mix-adapters.ts'
import type { Capability, Mix } from '../contract.ts'
import { BackendError } from '../errors.ts'
import type { Factors } from './packed.ts'
import type { GenerateRequest } from './request.ts'

/** Hashed with the parts, so that no mix has the digest of a file. */
const MIX_SCHEMA = 'sidepath.mix/1'

/** SHA-256 over the digests and weights, in the order of the digests: the same sum has one slot, however it was spelt. */
export function mixDigest(mix: Mix): string {
  const parts = mix.map(({ digest, weight }) => ({ digest, weight }))
  parts.sort((a, b) => compareCodePoints(a.digest, b.digest))
  return createHash('sha256')
    .update(canonicalJson({ schema: MIX_SCHEMA, parts }))
    .digest('hex')
}

/** The engine's words for what a capability names. */
export function runnableOf(claimed: Capability['adapter']): Pick<GenerateRequest, 'adapter' | 'mix'> {
  if (claimed === null || typeof claimed === 'string') return { adapter: claimed }
  return { adapter: mixDigest(claimed), mix: claimed }
}

/** Reads what `read` reads, and makes mixes of it. Throws what `read` throws, and `adapter_refused`. */
export function mixReader(
  read: (digest: string) => Promise<Factors>,
  bankRank: number,
): (digest: string, mix?: Mix) => Promise<Factors> {
  return async (digest, mix) => {
    if (mix === undefined) return read(digest)
    const parts: MixPart[] = []
    // One after the other: of a part that is refused, the rest is not read.
    for (const part of mix)
      parts.push({ name: part.digest, weight: part.weight, modules: (await read(part.digest)).modules })
    checkRank(parts, bankRank)
    try {
      return { digest, modules: mixAdapters(parts, { maxRank: bankRank }) }
    } catch (error) {
      if (error instanceof InputError) throw refused(`is not usable: ${error.message}`)
      throw error
    }
  }
}

/** In one sentence for the caller, who cannot mend it module by module. */
function checkRank(parts: readonly MixPart[], bankRank: number): void {
  const ranks = new Map<string, number>()
  for (const { modules } of parts) for (const [path, { r }] of modules) ranks.set(path, (ranks.get(path) ?? 0) + r)
  const rank = Math.max(...ranks.values())
  if (rank <= bankRank) return
  const message = `has a rank of ${rank}, which is the sum of its parts'; this backend holds ranks up to ${bankRank}: mix fewer adapters`
  throw refused(message)
}

function refused(what: string): BackendError {
  return new BackendError('adapter_refused', `the mix ${what}`, 'model')
}
