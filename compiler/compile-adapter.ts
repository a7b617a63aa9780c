// One more adapter for a base that is already served: PEFT folder → adapters/<digest>.safetensors.
import { describeAdapter } from './adapter/describe.ts'
import { adapterPath, encodeAdapter } from './adapter/encode.ts'
import { readAdapters } from './adapter/read-all.ts'
import { digestBase } from './checkpoint/digest.ts'
import { layerLinears } from './checkpoint/names.ts'
import { openCheckpoint } from './checkpoint/read.ts'
import type { AdapterEntry, Linear, Manifest } from './contract.ts'
import { digestBytes, writeFile } from './hashed-file.ts'
import type { Folder, Host, OutFolder } from './host.ts'

export interface CompileAdapterInput {
  readonly name: string
  /** A PEFT folder. */
  readonly folder: Folder
  /** The base's folder, which is read in full for its digest; or the manifest of a routed artifact, which has it. */
  readonly base: Folder | Manifest
}

/** Gives the bytes that `compile` would have written for this adapter. Throws `InputError` before the first byte. */
export async function compileAdapter(input: CompileAdapterInput, out: OutFolder, host: Host): Promise<AdapterEntry> {
  const { name, folder } = input
  const base = await identify(input.base, host)
  const [adapter] = await readAdapters([{ name, folder }], 'routed', base.linears)
  if (adapter === undefined) throw new Error('sidepath bug: one adapter in, none out')
  const bytes = encodeAdapter(adapter, base.digest)
  const digest = digestBytes(bytes, host)
  const path = adapterPath(digest)
  await writeFile(out, path, bytes, host)
  return describeAdapter(adapter, digest, path)
}

async function identify(base: Folder | Manifest, host: Host): Promise<{ digest: string; linears: readonly Linear[] }> {
  if ('bank' in base) return { digest: base.base.digest, linears: base.bank }
  const checkpoint = await openCheckpoint(base)
  try {
    return { digest: await digestBase(checkpoint, host), linears: layerLinears(checkpoint.config.architecture) }
  } finally {
    await checkpoint.close()
  }
}
