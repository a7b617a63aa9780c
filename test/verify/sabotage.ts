// Artifacts on disk that somebody has touched: a byte of a file, or a file together with all that vouches for it.
import { createHash } from 'node:crypto'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { canonicalJson } from '../../compiler/canonical-json.ts'
import { MANIFEST_FILE, type Manifest, ManifestSchema } from '../../compiler/contract.ts'
import { editRaw, parseRaw, type RawTensor, writeRaw } from '../compiler/safetensors-file.ts'

export async function readManifest(path: string): Promise<Manifest> {
  return ManifestSchema.parse(JSON.parse(await readFile(join(path, MANIFEST_FILE), 'utf8')))
}

export async function flipByte(file: string, at: number): Promise<void> {
  const bytes = await readFile(file)
  bytes[at < 0 ? bytes.length + at : at]! ^= 1
  await writeFile(file, bytes)
}

/** Puts `bytes` in place of a file, and makes the manifest vouch for them: only numbers can tell. */
export async function replaceFile(path: string, file: string, bytes: Uint8Array): Promise<void> {
  const manifest = await readManifest(path)
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  const entry = manifest.adapters.find((adapter) => adapter.file === file)
  const named = entry === undefined ? file : `adapters/${sha256}.safetensors`
  await writeFile(join(path, file), bytes)
  await rename(join(path, file), join(path, named))
  const forged: Manifest = {
    ...manifest,
    adapters: manifest.adapters.map((one) => (one === entry ? { ...one, digest: sha256, file: named } : one)),
    files: manifest.files.map((one) => (one.path === file ? { path: named, bytes: bytes.length, sha256 } : one)),
  }
  await writeFile(join(path, MANIFEST_FILE), canonicalJson(forged))
}

/** Changes the tensors of a compiled adapter and forges the manifest to match. */
export async function forgeAdapter(
  path: string,
  name: string,
  change: (tensors: Map<string, RawTensor>, manifest: Manifest) => void,
): Promise<void> {
  const manifest = await readManifest(path)
  const file = manifest.adapters.find((adapter) => adapter.name === name)!.file!
  const bytes = await readFile(join(path, file))
  const metadata = metadataOf(bytes)
  const edited = editRaw(bytes, (tensors) => change(tensors, manifest))
  await replaceFile(path, file, writeRaw(parseRaw(edited), metadata))
}

function metadataOf(file: Uint8Array): Record<string, string> {
  const length = Number(new DataView(file.buffer, file.byteOffset, 8).getBigUint64(0, true))
  return JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length))).__metadata__
}

/** A copy whose values are changed one by one. */
export function mapTensor(tensor: RawTensor, change: (value: number) => number): RawTensor {
  const values = new Float32Array(new Uint8Array(tensor.data).buffer).map(change)
  return { ...tensor, data: new Uint8Array(values.buffer) }
}
