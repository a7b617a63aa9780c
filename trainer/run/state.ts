// The checkpoint of a run: a safetensors file with what the next step needs, and nothing that could be computed again.
import { z } from 'zod'
import { canonicalJson } from '../../compiler/canonical-json.ts'
import { assert, inputError } from '../../compiler/errors.ts'
import type { ByteSource } from '../../compiler/host.ts'
import { readHeader } from '../../compiler/safetensors/read.ts'
import { isFloatTensor, readFloats } from '../../compiler/safetensors/stream.ts'
import { encodeSafetensors, type FloatTensor } from '../../compiler/safetensors/write.ts'
import type { Moments } from '../optimise/adamw.ts'

const SCHEMA = 'sidepath.train/1'
const KEY = 'sidepath.train'

const Progress = z.object({
  schema: z.literal(SCHEMA),
  /** SHA-256 of base, data and options: a run goes on as itself or not at all. */
  run: z.string(),
  step: z.int().min(0),
  tokens: z.int().min(0),
  /** Evaluations since the best one. */
  waited: z.int().min(0),
  bestLoss: z.number().nullable(),
  stopped: z.boolean(),
})
export type Progress = Omit<z.infer<typeof Progress>, 'schema'>

export interface State {
  readonly progress: Progress
  readonly moments: Moments
  /** Parameters of the best evaluation, where the run keeps them. */
  readonly best: Float32Array | undefined
}

export function encodeState({ progress, moments, best }: State): Uint8Array<ArrayBuffer> {
  const flat = (data: Float32Array): FloatTensor => ({ shape: [data.length], data })
  const tensors = new Map([
    ['parameters', flat(moments.parameters)],
    ['moments.first', flat(moments.first)],
    ['moments.second', flat(moments.second)],
    ...(best === undefined ? [] : [['best', flat(best)] as const]),
  ])
  return encodeSafetensors(tensors, { [KEY]: canonicalJson({ schema: SCHEMA, ...progress }) })
}

/** Fills `moments`. Throws `InputError` where the file is not a checkpoint of this run. */
export async function readState(
  file: ByteSource,
  run: string,
  moments: Moments,
): Promise<Pick<State, 'progress' | 'best'>> {
  const { tensors, metadata } = await readHeader(file)
  const parsed = Progress.safeParse(parse(metadata.get(KEY)))
  if (!parsed.success) {
    throw inputError('train-state', `${file.name} is no checkpoint of a training run; delete it to begin anew`)
  }
  const { schema: _, ...progress } = parsed.data
  if (progress.run !== run) {
    throw inputError(
      'train-state',
      `${file.name} is of a run with another base, other data or other options; give those again, or another folder`,
    )
  }
  const read = async (name: string): Promise<Float32Array | undefined> => {
    const tensor = tensors.get(name)
    if (tensor === undefined) return undefined
    if (!isFloatTensor(tensor) || tensor.shape.join() !== String(moments.parameters.length)) {
      throw inputError(
        'train-state',
        `${file.name}: ${name} has another size than what is trained; delete it to begin anew`,
      )
    }
    return readFloats(tensor)
  }
  for (const [name, target] of [
    ['parameters', moments.parameters],
    ['moments.first', moments.first],
    ['moments.second', moments.second],
  ] as const) {
    const values = await read(name)
    if (values === undefined) throw inputError('train-state', `${file.name} lacks ${name}; delete it to begin anew`)
    assert(values.length === target.length, `${name} was read short`)
    target.set(values)
  }
  return { progress, best: await read('best') }
}

function parse(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? '')
  } catch {
    return undefined
  }
}
