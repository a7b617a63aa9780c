// Reads adapters by digest from folders that hold `<digest>.safetensors`, and believes nothing but the digest.
import { Digest, type LowRankManifest } from '../../compiler/contract.ts'
import { InputError } from '../../compiler/errors.ts'
import type { ByteSource } from '../../compiler/host.ts'
import { readAdapter } from '../../compiler/read-adapter.ts'
import { type openFile, openFolder } from '../../runtime/disk.ts'
import { BackendError } from '../errors.ts'
import type { Factors } from './packed.ts'

/** Above the factors themselves: header and padding. */
const MAX_EXTRA_BYTES = 1024 * 1024
/** An adapter whose rank is a little too high should hear so, not that its file is too large. */
const RANK_MARGIN = 4

export type StoreFile = Awaited<ReturnType<typeof openFile>>

/** A file in memory, and what its bytes, and no others, hash to. */
export interface Whole {
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly sha256: Promise<string>
}

interface MakerOptions<Made> {
  readonly readWhole?: (file: StoreFile) => Promise<Whole>
  /**
   * What to give instead of the factors, which are views of what `readWhole` gives where their place in the file allows.
   * Made while the hash is still being computed, and dropped where it turns out to be another.
   */
  readonly make: (factors: Factors) => Made
}

export function adapterReader(
  manifest: LowRankManifest,
  bankRank: number,
  folders: readonly string[],
): (digest: string) => Promise<Factors> {
  return adapterMaker(manifest, bankRank, folders, { make: (factors) => factors })
}

/** Bytes are read once, hashed, and then parsed: what was verified is what is used. */
export function adapterMaker<Made>(
  manifest: LowRankManifest,
  bankRank: number,
  folders: readonly string[],
  { readWhole = readAndHash, make }: MakerOptions<Made>,
): (digest: string) => Promise<Made> {
  const perRank = manifest.bank.reduce((sum, linear) => sum + linear.in + linear.out, 0)
  const maxBytes = perRank * bankRank * RANK_MARGIN * Float32Array.BYTES_PER_ELEMENT + MAX_EXTRA_BYTES
  const verify = async (digest: string, { bytes, sha256 }: Whole): Promise<Made> => {
    const source = inMemory(`${digest}.safetensors`, bytes)
    const making = readAdapter(source, manifest, { maxRank: bankRank }).then(({ modules }) => make({ digest, modules }))
    // The verdict of the hash comes first, whatever else is wrong.
    const [made] = await Promise.allSettled([making, sha256])
    if ((await sha256) !== digest) throw refused(digest, 'has other content than its digest says; copy the file again')
    if (made.status === 'fulfilled') return made.value
    const error: unknown = made.reason
    if (error instanceof InputError) throw refused(digest, `is not usable: ${error.message}`)
    throw error
  }
  return async (digest) => {
    if (!Digest.safeParse(digest).success) throw unknown()
    for (const folder of folders) {
      const file = await openFolder(folder).open(`${digest}.safetensors`)
      if (file === undefined) continue
      try {
        if (file.size > maxBytes) throw refused(digest, `is a file of ${file.size} bytes; at most ${maxBytes} are read`)
        return await verify(digest, await readWhole(file))
      } finally {
        await file.close()
      }
    }
    throw unknown()
  }
}

async function readAndHash(file: StoreFile): Promise<Whole> {
  const bytes = await file.read(0, file.size)
  const sha256 = crypto.subtle.digest('SHA-256', bytes).then((hash) => Buffer.from(hash).toString('hex'))
  return { bytes, sha256 }
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
