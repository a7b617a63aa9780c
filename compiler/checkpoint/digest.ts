// The identity of a base: one hash over what it computes, whatever files it is stored in.
import { canonicalJson, compareCodePoints } from '../canonical-json.ts'
import { inputError, quote } from '../errors.ts'
import type { Host } from '../host.ts'
import type { WeightLanes } from '../lanes/weight-lanes.ts'
import { decodeFloats, firstNonFinite } from '../safetensors/decode.ts'
import { type FloatTensorSource, readChunks } from '../safetensors/stream.ts'
import { HEAD } from './decoder.ts'
import { layoutOf } from './families/families.ts'
import type { Checkpoint } from './read.ts'

/**
 * SHA-256 over canonical JSON of `{config, tensors}`: the facts of the configuration that decide the numbers, and per
 * tensor, sorted by name, its name, dtype, shape and the SHA-256 of its bytes. Sharding and file order do not matter.
 * Reads every byte once, so it is also where a NaN or an infinity in the base is found. Throws `InputError`.
 */
export async function digestBase(
  checkpoint: Checkpoint,
  host: Host,
  onBytes: (bytes: number) => void = () => {},
  lanes?: WeightLanes,
): Promise<string> {
  const { architecture, rmsNormEps, ropeTheta, tiedHead, traits } = checkpoint.config
  const { embedding } = layoutOf(architecture)
  const digests = new Map<string, string>()
  for (const [name, tensor] of checkpoint.tensors) {
    digests.set(name, await digestTensor(checkpoint.name, tensor, host, onBytes, lanes))
  }
  if (checkpoint.redundantHead !== undefined) {
    const head = await digestTensor(checkpoint.name, checkpoint.redundantHead, host, () => {}, lanes)
    if (head !== digests.get(embedding)) {
      throw inputError(
        'tensor-unknown',
        `${checkpoint.name}: tie_word_embeddings is true but ${HEAD} differs from ${embedding}; set it to false`,
      )
    }
  }
  const tensors = [...checkpoint.tensors]
    .sort(([a], [b]) => compareCodePoints(a, b))
    .map(([name, { dtype, shape }]) => ({ name, dtype, shape, sha256: digests.get(name) }))
  const hash = host.sha256()
  const description = {
    config: { ...architecture, rmsNormEps, ropeTheta, tiedHead, ...(traits && { traits: { ...traits } }) },
    tensors,
  }
  hash.update(new TextEncoder().encode(canonicalJson(description)))
  return hash.hex()
}

export async function digestTensor(
  base: string,
  tensor: FloatTensorSource,
  host: Host,
  onBytes: (bytes: number) => void,
  lanes?: WeightLanes,
): Promise<string> {
  const hash = host.sha256()
  for await (const { bytes, finite } of lanes?.takes(tensor) ? lanes.scan(tensor) : scan(tensor)) {
    hash.update(bytes)
    if (!finite) {
      throw inputError('tensor-not-finite', `${base}: tensor ${quote(tensor.name)} holds NaN or infinity; it is broken`)
    }
    onBytes(bytes.length)
  }
  return hash.hex()
}

async function* scan(tensor: FloatTensorSource): AsyncGenerator<{ bytes: Uint8Array; finite: boolean }> {
  for await (const bytes of readChunks(tensor)) {
    yield { bytes, finite: firstNonFinite(decodeFloats(bytes, tensor.dtype)) < 0 }
  }
}
