// The files of an artifact's adapters, and what its manifest says of each.
import type { AdapterEntry, FileEntry, Manifest } from '../contract.ts'
import { digestBytes, writeFile } from '../hashed-file.ts'
import type { Host, OutFolder } from '../host.ts'
import { weighted } from '../read-stack.ts'
import { describeAdapter } from './describe.ts'
import { adapterPath, encodeAdapter } from './encode.ts'
import type { WeightedAdapter } from './read-all.ts'

export interface EncodedAdapter {
  readonly adapter: WeightedAdapter
  readonly bytes: Uint8Array
  readonly digest: string
  /** Of the would-be bytes at weight 1, where the file has another weight in it. */
  readonly unweighted: string | undefined
}

/** A stack's files have the weights in them. */
export function encodeAdapters(
  adapters: readonly WeightedAdapter[],
  target: Manifest['target'],
  baseDigest: string,
  host: Host,
): EncodedAdapter[] {
  return adapters.map((adapter) => {
    const bytes = encodeAdapter(target === 'stacked' ? weighted(adapter) : adapter, baseDigest)
    const isWeighted = target === 'stacked' && adapter.weight !== 1
    const unweighted = isWeighted ? digestBytes(encodeAdapter(adapter, baseDigest), host) : undefined
    return { adapter, bytes, digest: digestBytes(bytes, host), unweighted }
  })
}

/** Merged adapters have no file: their entries say what is in the weights. */
export async function writeAdapters(
  encoded: readonly EncodedAdapter[],
  target: Manifest['target'],
  out: OutFolder,
  host: Host,
): Promise<{ entries: AdapterEntry[]; files: FileEntry[] }> {
  const entries: AdapterEntry[] = []
  const files: FileEntry[] = []
  for (const { adapter, bytes, digest, unweighted } of encoded) {
    const path = target === 'merged' ? undefined : adapterPath(digest)
    if (path !== undefined) files.push(await writeFile(out, path, bytes, host))
    entries.push({ ...describeAdapter(adapter, digest, path), ...(unweighted && { unweighted }) })
  }
  return { entries, files }
}
