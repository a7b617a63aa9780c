// Runs model.onnx on a probe, from its specification alone: docs/artifact-format.md.
import { type Architecture, graphNames } from '../contract.ts'
import type { Probe } from './probes.ts'
import { type Feeds, floats, type GraphSession, ints } from './session.ts'
import type { SidePath } from './side-path.ts'

/** Per row, the logits of all positions, one after the other. The whole probe in one run, nothing in the past. */
export async function runModel(
  session: GraphSession,
  architecture: Architecture,
  probe: Probe,
  path: SidePath,
): Promise<Float32Array[]> {
  const results = await session.run(feedsOf(architecture, probe, path), [graphNames.logits])
  const logits = floatsOf(results, graphNames.logits)
  const size = logits.length / path.rows
  return Array.from({ length: path.rows }, (_, row) => logits.subarray(row * size, (row + 1) * size))
}

/** Inputs of model.onnx: the whole probe, with nothing in the past. */
export function feedsOf(
  { layers, kvHeads, headDim }: Architecture,
  { ids, positions }: Probe,
  { rows, feeds }: SidePath,
): Feeds {
  const tokens = ids.length
  const nothing = floats(new Float32Array(), rows, kvHeads, 0, headDim)
  const past: Record<string, Feeds[string]> = {}
  for (let layer = 0; layer < layers; layer += 1) {
    past[graphNames.pastKey(layer)] = nothing
    past[graphNames.pastValue(layer)] = nothing
  }
  return {
    ...feeds,
    ...past,
    [graphNames.inputIds]: ints(repeat(ids, rows), rows, tokens),
    [graphNames.positionIds]: ints(repeat(positions, rows), rows, tokens),
    [graphNames.attentionMask]: ints(Array<number>(rows * tokens).fill(1), rows, tokens),
  }
}

export function repeat(values: readonly number[], times: number): number[] {
  return Array.from({ length: times }, () => values).flat()
}

export function floatsOf(results: Feeds, name: string): Float32Array {
  const data = results[name]?.data
  if (!(data instanceof Float32Array)) throw new Error(`sidepath bug: the graph has no float32 output ${name}`)
  return data
}
