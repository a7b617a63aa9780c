// The backward pass, layer by layer from the last: what a layer holds is given back before the one below it begins.
import { differentiate, reachedFrom } from '../autodiff/differentiate.ts'
import type { GraphWriter } from '../autodiff/writer.ts'
import type { Again, Forward, Segment } from './forward.ts'

export interface BackwardInput extends Pick<Forward, 'prelude' | 'segments'> {
  readonly reached: ReadonlySet<string>
  readonly trainable: readonly string[]
  /** Values that count as constants. */
  readonly fixed: ReadonlySet<string>
  readonly again: Again
  /** ∂L/∂ of the last hidden states goes in; those of what is trained come out. */
  readonly gradients: Map<string, string>
  /** Compute a layer's activations again from its input, once its turn comes, instead of keeping them. */
  readonly recompute: boolean
}

export function writeBackward(w: GraphWriter, input: BackwardInput): void {
  const { segments, prelude, reached, trainable, again, gradients, recompute } = input
  const isTrained = new Set(trainable)
  for (const [layer, segment] of [...segments.entries()].reverse()) {
    const slope = gradients.get(segment.output)
    if (slope === undefined) return
    const whole = w.expand(slope, w.shape(segment.output), `grad/${segment.output}/whole`)
    gradients.set(segment.output, whole)
    // The last layer's activations are still needed when its turn comes.
    const isKept = !recompute || layer === segments.length - 1
    const before = isKept ? segment.input : recomputeFrom(w, segment, whole)
    if (isKept) differentiate({ w, nodes: segment.nodes, reached, gradients, again })
    else differentiateCopy(w, segment, before, input)
    const found = gradients.get(before)
    if (found === undefined) return
    // Not before the layer's own gradients, which hold its activations until they are computed.
    const own = new Set(segment.nodes.flatMap(({ inputs }) => inputs.filter((value) => isTrained.has(value))))
    const waits = [...own].flatMap((name) => gradients.get(name) ?? [])
    const expanded = w.expand(found, w.shape(segment.input), `grad/${segment.input}/expanded`)
    gradients.set(segment.input, w.say(w.after(expanded, waits, `grad/${segment.input}`)))
  }
  differentiate({ w, nodes: prelude, reached, gradients, again })
}

/** The layer's input, not before the gradient of its output is there. */
function recomputeFrom(w: GraphWriter, segment: Segment, slope: string): string {
  return w.say(w.after(segment.input, [slope], `${segment.output}/input`))
}

function differentiateCopy(w: GraphWriter, segment: Segment, before: string, input: BackwardInput): void {
  const { reached, trainable, fixed, gradients } = input
  const copy = w.copy(segment.nodes, 'again/', new Map([[segment.input, before]]))
  const output = copy.rename(segment.output)
  gradients.set(output, gradients.get(segment.output) as string)
  const start = reached.has(segment.input) ? [before, ...trainable] : trainable
  const held = new Set([...fixed].map(copy.rename))
  differentiate({ w, nodes: copy.nodes, reached: reachedFrom(copy.nodes, start, held), gradients })
}
