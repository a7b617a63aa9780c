// Reads adapters by digest from folders that hold `<digest>.safetensors`, and believes nothing but the digest.
import { Digest, type LowRankManifest } from '../../compiler/contract.ts'
import { InputError } from '../../compiler/errors.ts'
import type { ByteSource } from '../../compiler/host.ts'
import { readAdapter } from '../../compiler/read-adapter.ts'
import { openFolder } from '../../runtime/disk.ts'
import { BackendError } from '../errors.ts'
import type { Factors } from './packed.ts'

/** Above the factors themselves: header and padding. */
const MAX_EXTRA_BYTES = 1024 * 1024
/** An adapter whose rank is a little too high should hear so, not that its file is too large. */
const RANK_MARGIN = 4

/** Bytes are read once, hashed, and then parsed: what was verified is what is used. */
export function adapterReader(
  manifest: LowRankManifest,
  bankRank: number,
  folders: readonly string[],
): (digest: string) => Promise<Factors> {
  const perRank = manifest.bank.reduce((sum, linear) => sum + linear.in + linear.out, 0)
  const maxBytes = perRank * bankRank * RANK_MARGIN * Float32Array.BYTES_PER_ELEMENT + MAX_EXTRA_BYTES
  return async (digest) => {
    if (!Digest.safeParse(digest).success) throw unknown()
    for (const folder of folders) {
      const file = await openFolder(folder).open(`${digest}.safetensors`)
      if (file === undefined) continue
      try {
        if (file.size > maxBytes) throw refused(digest, `is a file of ${file.size} bytes; at most ${maxBytes} are read`)
        return await verify(digest, await file.read(0, file.size), manifest, bankRank)
      } finally {
        await file.close()
      }
    }
    throw unknown()
  }
}

async function verify(
  digest: string,
  bytes: Uint8Array<ArrayBuffer>,
  manifest: LowRankManifest,
  maxRank: number,
): Promise<Factors> {
  // Hashing takes as long as all the rest, and happens in another thread meanwhile. Its verdict comes first.
  const hashing = crypto.subtle.digest('SHA-256', bytes)
  const [parsed] = await Promise.allSettled([
    readAdapter(inMemory(`${digest}.safetensors`, bytes), manifest, { maxRank }),
    hashing,
  ])
  if (Buffer.from(await hashing).toString('hex') !== digest) {
    throw refused(digest, 'has other content than its digest says; copy the file again')
  }
  if (parsed.status === 'fulfilled') return { digest, modules: parsed.value.modules }
  const error: unknown = parsed.reason
  if (error instanceof InputError) throw refused(digest, `is not usable: ${error.message}`)
  throw error
}

function inMemory(name: string, bytes: Uint8Array<ArrayBuffer>): ByteSource {
  return {
    name,
    size: bytes.length,
    async read(offset, length) {
      if (offset < 0 || length < 0 || offset + length > bytes.length) throw new RangeError(`${name}: outside the file`)
      // A view: what is read here is copied once, into the layout of the graph.
      return bytes.subarray(offset, offset + length)
    },
    close: async () => {},
  }
}

function unknown(): BackendError {
  return new BackendError('model_not_found', 'no adapter with that digest in the store')
}

function refused(digest: string, what: string): BackendError {
  return new BackendError('adapter_refused', `adapter ${digest.slice(0, 12)} ${what}`)
}
