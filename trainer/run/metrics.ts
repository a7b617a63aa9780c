// metrics.jsonl: a line a step and a line an evaluation. Cut back to the checkpoint where a run is taken up again.
import { withFile } from '../../compiler/read-file.ts'
import type { RunFolder } from './host.ts'
import type { Point } from './loss-plot.ts'

const FILE = 'metrics.jsonl'

export interface StepLine {
  readonly step: number
  readonly loss: number
  readonly gradientNorm: number
  readonly learningRate: number
  /** Seen so far. */
  readonly tokens: number
  /** Of this step. */
  readonly seconds: number
}

export interface EvalLine {
  readonly step: number
  readonly heldOutLoss: number
  readonly perplexity: number
}

export class Metrics {
  readonly #folder: RunFolder
  readonly train: Point[] = []
  readonly held: Point[] = []

  private constructor(folder: RunFolder) {
    this.#folder = folder
  }

  /** With the lines up to `step`; those after it, of steps that will be done again, are dropped from the file, or all. */
  static async open(folder: RunFolder, step: number | undefined): Promise<Metrics> {
    const metrics = new Metrics(folder)
    const text = await withFile(folder, FILE, async (file) => new TextDecoder().decode(await file.read(0, file.size)))
    const kept = (text ?? '').split('\n').flatMap((line) => {
      const parsed = parse(line)
      if (parsed === undefined || step === undefined || parsed.step > step) return []
      metrics.#remember(parsed)
      return [`${line}\n`]
    })
    await folder.replace(FILE, new TextEncoder().encode(kept.join('')))
    return metrics
  }

  async add(line: StepLine | EvalLine): Promise<void> {
    this.#remember(line)
    await this.#folder.append(FILE, new TextEncoder().encode(`${JSON.stringify(line)}\n`))
  }

  #remember(line: StepLine | EvalLine): void {
    if ('loss' in line) this.train.push({ step: line.step, loss: line.loss })
    else this.held.push({ step: line.step, loss: line.heldOutLoss })
  }
}

/** `undefined` for half a line, which a kill may leave at the end. */
function parse(line: string): StepLine | EvalLine | undefined {
  try {
    const json: unknown = JSON.parse(line)
    return typeof json === 'object' && json !== null && 'step' in json ? (json as StepLine | EvalLine) : undefined
  } catch {
    return undefined
  }
}
