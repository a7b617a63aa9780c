// Reads the artifact's adapters by digest, and believes nothing but the digest.
import { type AdapterEntry, Digest, type Manifest } from '../../compiler/contract.ts'
import { InputError } from '../../compiler/errors.ts'
import { digestBytes } from '../../compiler/hashed-file.ts'
import type { Folder, Host } from '../../compiler/host.ts'
import { readAdapter } from '../../compiler/read-adapter.ts'
import { withFile } from '../../compiler/read-file.ts'
import type { Mix } from '../contract.ts'
import type { Factors } from '../engine/packed.ts'
import { BackendError } from '../errors.ts'

/** Bytes are hashed and then parsed: what was verified is what is used. */
export function pageAdapters(
  folder: Folder,
  host: Host,
  manifest: Manifest,
  maxRank: number,
): (digest: string, mix?: Mix) => Promise<Factors> {
  const listed = new Map(manifest.adapters.map((entry): [string, AdapterEntry] => [entry.digest, entry]))
  return async (digest, mix) => {
    if (mix !== undefined) throw refused('a mix is not available in a page; name one adapter')
    const path = Digest.safeParse(digest).success ? listed.get(digest)?.file : undefined
    if (path === undefined) throw new BackendError('model_not_found', 'the artifact has no adapter with that digest')
    const factors = await withFile(folder, path, async (file) => {
      const bytes = await file.read(0, file.size)
      if (digestBytes(bytes, host) !== digest) {
        throw refused(`adapter ${digest.slice(0, 12)} has other content than its digest says; copy the file again`)
      }
      return { digest, modules: (await readAdapter(file, manifest, { maxRank })).modules }
    }).catch((error) => {
      if (!(error instanceof InputError)) throw error
      throw refused(`adapter ${digest.slice(0, 12)} is not usable: ${error.message}`)
    })
    if (factors === undefined) throw refused(`adapter ${digest.slice(0, 12)} is missing; copy the artifact again`)
    return factors
  }
}

function refused(message: string): BackendError {
  return new BackendError('adapter_refused', message)
}
