// What the benchmarks of serving run on: SmolLM2-135M from its GGUF, int4, and adapters of random numbers. What they say
// does not matter for how long they take.
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { canonicalJson } from '../../compiler/canonical-json.ts'
import { compile } from '../../compiler/compile.ts'
import { type Linear, MANIFEST_FILE, type Manifest } from '../../compiler/contract.ts'
import { openGguf } from '../../compiler/gguf/folder.ts'
import type { Folder } from '../../compiler/host.ts'
import type { QuantiseOptions } from '../../compiler/quantise/spec.ts'
import { nodeHost, openFile, stageFolder } from '../../runtime/disk.ts'
import { findModel } from '../../scripts/models.ts'

/** Of every measurement here, ours and the peers'. */
export const THREADS = Number(process.env.THREADS ?? 2)
export const RANK = 16
/** int8 activations, which is what llama.cpp computes with; 1 keeps them in float32. */
const ACCURACY_LEVEL = Number(process.env.ACCURACY_LEVEL ?? 4)
const INT4: QuantiseOptions = { method: 'int4', block: 32, grid: 'affine', rounding: 'rtn', keep: [], eight: [] }

export interface Fixture {
  readonly artifact: string
  readonly manifest: Manifest
  /** Folder with the adapters' files. */
  readonly store: string
  /** Writes an adapter and gives its digest. */
  adapter(seed: number, r?: number, targets?: RegExp): Promise<string>
  remove(): Promise<void>
}

export const modelPath = (): string => {
  const path = findModel('smollm2')
  if (path === undefined) throw new Error('SmolLM2 is not on this machine; run `npm run models`')
  return path
}

export async function smollm2(accuracyLevel = ACCURACY_LEVEL): Promise<Fixture> {
  const path = modelPath()
  return fixtureOf(await openGguf(() => openFile(path)), INT4, accuracyLevel)
}

export async function fixtureOf(
  base: Folder,
  quantise?: QuantiseOptions,
  accuracyLevel = ACCURACY_LEVEL,
): Promise<Fixture> {
  const scratch = await mkdtemp(join(tmpdir(), 'sidepath-serve-'))
  const artifact = join(scratch, 'artifact')
  const store = join(scratch, 'store')
  await mkdir(store)
  const out = await stageFolder(artifact)
  const input = { base, adapters: [], target: 'routed' as const, ...(quantise && { quantise }) }
  await compile(input, out, nodeHost)
  await out.commit()
  const manifest = await setAccuracyLevel(artifact, accuracyLevel)
  return {
    artifact,
    manifest,
    store,
    adapter: (seed, r = RANK, targets = /./) => writeAdapter(store, manifest, seed, r, targets),
    remove: () => rm(scratch, { recursive: true, force: true }),
  }
}

/** In the 4-bit operators of the graphs that the backend runs; the manifest then lists what lies there. */
async function setAccuracyLevel(artifact: string, level: number): Promise<Manifest> {
  const path = join(artifact, MANIFEST_FILE)
  const manifest = JSON.parse(await readFile(path, 'utf8')) as Manifest
  const files = [...manifest.files]
  const graphs = [manifest.graphs.engine, manifest.graphs.base, manifest.graphs.shared]
  for (const [index, file] of files.entries()) {
    if (!graphs.includes(file.path)) continue
    const bytes = await readFile(join(artifact, file.path))
    // The attribute's name, then its integer: field 3 of AttributeProto.
    const name = Buffer.from('accuracy_level\x18')
    for (let at = bytes.indexOf(name); at >= 0; at = bytes.indexOf(name, at + 1)) bytes[at + name.length] = level
    await writeFile(join(artifact, file.path), bytes)
    files[index] = { ...file, sha256: createHash('sha256').update(bytes).digest('hex') }
  }
  const edited = { ...manifest, files }
  await writeFile(path, canonicalJson(edited))
  return edited
}

const NOISE = noise(1 << 20)

async function writeAdapter(
  store: string,
  { bank, base }: Manifest,
  seed: number,
  r: number,
  targets: RegExp,
): Promise<string> {
  const linears = bank.filter(({ module }) => targets.test(module))
  const tensors = linears.flatMap((linear: Linear) => [
    { name: `${linear.module}.lora_A`, shape: [linear.in, r] as const },
    { name: `${linear.module}.lora_B`, shape: [r, linear.out] as const },
  ])
  const header: Record<string, unknown> = {
    __metadata__: {
      'sidepath.schema': 'sidepath.adapter/1',
      'sidepath.base': base.digest,
      'sidepath.name': `a${seed}`,
    },
  }
  let floats = 0
  for (const { name, shape } of tensors) {
    const size = shape[0] * shape[1]
    header[name] = { dtype: 'F32', shape, data_offsets: [4 * floats, 4 * (floats + size)] }
    floats += size
  }
  const data = new Float32Array(floats)
  for (let at = 0; at < floats; at += NOISE.length) data.set(NOISE.subarray(0, Math.min(NOISE.length, floats - at)), at)
  data[0] = seed / 1e6
  const text = Buffer.from(JSON.stringify(header))
  const front = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8, ' ')
  front.writeBigUInt64LE(BigInt(front.length - 8))
  text.copy(front, 8)
  const file = Buffer.concat([front, Buffer.from(data.buffer)])
  const digest = createHash('sha256').update(file).digest('hex')
  await writeFile(join(store, `${digest}.safetensors`), file)
  return digest
}

/** Small numbers, the same at every run. */
export function noise(count: number): Float32Array {
  const numbers = new Float32Array(count)
  let state = 1
  for (let at = 0; at < count; at++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    numbers[at] = (state / 2 ** 32 - 0.5) / 50
  }
  return numbers
}
