// Opens an artifact that somebody else may have touched: the manifest is parsed, its files are there in full.
import { canonicalJson } from './canonical-json.ts'
import {
  type AnyManifest,
  EncoderManifestSchema,
  graphFiles,
  isEncoder,
  MANIFEST_FILE,
  type Manifest,
  ManifestSchema,
} from './contract.ts'
import { inputError, Problems, quote } from './errors.ts'
import { digestBytes } from './hashed-file.ts'
import type { Folder, Host } from './host.ts'
import { decodeJson, describeIssues, withFile } from './read-file.ts'
import { CHUNK_BYTES } from './safetensors/stream.ts'

/** A manifest lists two lines per adapter module; a thousand adapters of a 70B base stay below this. */
const MAX_MANIFEST_BYTES = 512 * 1024 * 1024

/** As `readAnyArtifact`, for those who can do nothing with an encoder, which is refused by name. */
export async function readArtifact(folder: Folder, host: Host): Promise<{ id: string; manifest: Manifest }> {
  const { id, manifest } = await readAnyArtifact(folder, host)
  if (!isEncoder(manifest)) return { id, manifest }
  throw inputError(
    'artifact-invalid',
    `${folder.name} is an encoder (${manifest.base.architecture.family}, for ${manifest.task}), which generates no text; give the artifact of a decoder`,
  )
}

/** Sizes are checked, contents are not: see `verifyFiles`. Throws `InputError`. */
export async function readAnyArtifact(folder: Folder, host: Host): Promise<{ id: string; manifest: AnyManifest }> {
  const read = await withFile(folder, MANIFEST_FILE, async (file) => {
    if (file.size > MAX_MANIFEST_BYTES) {
      throw inputError('file-too-large', `${file.name}: ${file.size} bytes; at most ${MAX_MANIFEST_BYTES} are read`)
    }
    const bytes = await file.read(0, file.size)
    return { id: digestBytes(bytes, host), manifest: parseManifest(bytes, file.name) }
  })
  if (read === undefined) {
    throw inputError(
      'file-missing',
      `${folder.name}/${MANIFEST_FILE} is missing; this is not an artifact, or not all of it`,
    )
  }
  const problems = new Problems()
  for (const { path, bytes } of read.manifest.files) {
    const size = await withFile(folder, path, async (file) => file.size)
    if (size === bytes) continue
    const found = size === undefined ? 'is missing' : `has ${size} bytes, not ${bytes}`
    problems.add('artifact-invalid', `${folder.name}: ${quote(path)} ${found}; compile the artifact again`)
  }
  problems.throwIfAny()
  return read
}

/** Reads every file and compares its SHA-256 with the manifest's. Throws `InputError` that names each that differs. */
export async function verifyFiles(folder: Folder, manifest: Pick<AnyManifest, 'files'>, host: Host): Promise<void> {
  const problems = new Problems()
  for (const { path, sha256 } of manifest.files) {
    const found = await withFile(folder, path, async (file) => {
      const hash = host.sha256()
      for (let at = 0; at < file.size; at += CHUNK_BYTES) {
        hash.update(await file.read(at, Math.min(CHUNK_BYTES, file.size - at)))
      }
      return hash.hex()
    })
    if (found !== sha256) {
      problems.add(
        'artifact-invalid',
        `${folder.name}: ${quote(path)} is not the file that was compiled; compile again`,
      )
    }
  }
  problems.throwIfAny()
}

function parseManifest(bytes: Uint8Array, name: string): AnyManifest {
  const json = decodeJson(bytes, name, 'artifact-invalid')
  const hasTask = typeof json === 'object' && json !== null && 'task' in json
  const parsed = (hasTask ? EncoderManifestSchema : ManifestSchema).safeParse(json)
  if (!parsed.success) throw inputError('artifact-invalid', `${name}: ${describeIssues(parsed.error)}`)
  const manifest = parsed.data
  // The id is a digest of bytes, so two spellings of one manifest would be two artifacts.
  if (canonicalJson(manifest) !== new TextDecoder().decode(bytes)) {
    throw inputError(
      'artifact-invalid',
      `${name}: not in canonical form; somebody edited it, compile the artifact again`,
    )
  }
  const listed = new Set(manifest.files.map(({ path }) => path))
  const needed = [...graphFiles(manifest), ...manifest.adapters.flatMap(({ file }) => file ?? [])]
  const problems = new Problems()
  if (manifest.target === 'routed' && !isEncoder(manifest) && manifest.graphs.base === undefined) {
    problems.add(
      'artifact-invalid',
      `${name}: an older sidepath compiled it, with one graph for rows of the base and of adapters; compile the artifact again`,
    )
  }
  for (const path of needed.filter((path) => !listed.has(path))) {
    problems.add('artifact-invalid', `${name}: ${quote(path)} is used but not listed under files`)
  }
  for (const path of [...listed].filter((path) => !isPlain(path))) {
    problems.add('artifact-invalid', `${name}: ${quote(path)} is no plain path inside the artifact`)
  }
  problems.throwIfAny()
  return manifest
}

function isPlain(path: string): boolean {
  return path.split('/').every((part) => /^[\w-][\w.-]*$/.test(part))
}
