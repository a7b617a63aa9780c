// One request while it runs: what of its prompt has been seen, what it has produced, and when it is done.
import { createWriter, type Decode, type Writer } from '../text/writer.ts'
import type { Admitted } from './admission.ts'
import type { Row } from './model.ts'
import type { GenerateRequest, Piece } from './request.ts'
import { createSampler, type Sampler } from './sampler.ts'

interface TextOptions {
  readonly endIds: ReadonlySet<number>
  readonly decode: Decode | undefined
}

export class Generation {
  readonly id: number
  readonly request: GenerateRequest
  readonly row: Row
  readonly slot: number
  readonly #endIds: ReadonlySet<number>
  readonly #sample: Sampler
  readonly #writer: Writer
  #promptDone = 0
  #produced = 0
  #last = 0

  constructor({ id, request, row, slot }: Admitted, text: TextOptions) {
    this.id = id
    this.request = request
    this.row = row
    this.slot = slot
    this.#endIds = text.endIds
    this.#sample = createSampler(request.sampling)
    this.#writer = createWriter(text.decode, request.promptIds, request.stop)
  }

  /** Prompt tokens that have not run; 0 once the row decodes. */
  get left(): number {
    return this.request.promptIds.length - this.#promptDone
  }

  /** The next `count` tokens to run: of the prompt, or the one that was produced last. */
  nextTokens(count: number): readonly number[] {
    return this.left > 0 ? this.request.promptIds.slice(this.#promptDone, this.#promptDone + count) : [this.#last]
  }

  ran(count: number): void {
    if (this.left > 0) this.#promptDone += count
  }

  /** Throws `non_finite_logits`. */
  produce(logits: Float32Array): Piece {
    const id = this.#sample(logits)
    this.#last = id
    this.#produced += 1
    if (this.#endIds.has(id)) return { ids: [id], text: this.#writer.end(), finish: 'stop' }
    const { text, stopped } = this.#writer.push(id)
    if (stopped) return { ids: [id], text, finish: 'stop' }
    if (this.#produced === this.request.maxTokens) {
      return { ids: [id], text: text + this.#writer.end(), finish: 'length' }
    }
    return { ids: [id], text }
  }
}
