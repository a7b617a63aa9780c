// One more adapter for a base that is already served: PEFT folder → adapters/<digest>.safetensors.
import { describeAdapter } from './adapter/describe.ts'
import { adapterPath, encodeAdapter } from './adapter/encode.ts'
import { type AdapterInput, readAdapters, type WeightedAdapter } from './adapter/read-all.ts'
import { digestBase } from './checkpoint/digest.ts'
import { layerLinears } from './checkpoint/names.ts'
import { openCheckpoint } from './checkpoint/read.ts'
import type { AdapterEntry, Manifest } from './contract.ts'
import { encoderFamily } from './encoder/config.ts'
import { digestEncoder, openEncoder } from './encoder/open.ts'
import { readEncoderAdapters } from './encoder/read-adapters.ts'
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
  const { adapter, baseDigest } = await read({ name, folder }, input.base, host)
  if (adapter === undefined) throw new Error('sidepath bug: one adapter in, none out')
  const bytes = encodeAdapter(adapter, baseDigest)
  const digest = digestBytes(bytes, host)
  const path = adapterPath(digest)
  await writeFile(out, path, bytes, host)
  return describeAdapter(adapter, digest, path)
}

interface Read {
  readonly adapter: WeightedAdapter | undefined
  readonly baseDigest: string
}

async function read(input: AdapterInput, base: Folder | Manifest, host: Host): Promise<Read> {
  if ('bank' in base) {
    const [adapter] = await readAdapters([input], 'routed', base.bank)
    return { adapter, baseDigest: base.base.digest }
  }
  if ((await encoderFamily(base)) !== undefined) {
    const checkpoint = await openEncoder(base)
    try {
      const [adapter] = await readEncoderAdapters([input], 'routed', checkpoint)
      return { adapter, baseDigest: await digestEncoder(checkpoint, host) }
    } finally {
      await checkpoint.close()
    }
  }
  const checkpoint = await openCheckpoint(base)
  try {
    const [adapter] = await readAdapters([input], 'routed', layerLinears(checkpoint.config.architecture))
    return { adapter, baseDigest: await digestBase(checkpoint, host) }
  } finally {
    await checkpoint.close()
  }
}
