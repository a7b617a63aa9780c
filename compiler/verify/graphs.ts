// Both graphs of an artifact, opened, and the logits that they give for all probes.
import type { Manifest } from '../contract.ts'
import { inputError } from '../errors.ts'
import { Tally } from './compare.ts'
import type { Probe } from './probes.ts'
import { runEngine } from './run-engine.ts'
import { runModel } from './run-model.ts'
import type { GraphFolder, GraphSession } from './session.ts'
import { PLAIN, type SidePath } from './side-path.ts'

/** Of one row of the batch: per probe, the logits of all positions. */
export type Logits = readonly Float32Array[]

/** Per row of the batch. */
export interface Outputs {
  readonly model: readonly Logits[]
  readonly engine: readonly Logits[]
}

export const KINDS = ['model', 'engine'] as const

export class Graphs {
  readonly #manifest: Manifest
  readonly #sessions: Readonly<Record<(typeof KINDS)[number], GraphSession>>

  private constructor(manifest: Manifest, model: GraphSession, engine: GraphSession) {
    this.#manifest = manifest
    this.#sessions = { model, engine }
  }

  /** Runs `use` on the opened graphs and closes them. */
  static async with<T>(place: GraphFolder, manifest: Manifest, use: (graphs: Graphs) => Promise<T>): Promise<T> {
    const model = await openGraph(place, manifest.graphs.model)
    try {
      const engine = await openGraph(place, manifest.graphs.engine)
      return await use(new Graphs(manifest, model, engine)).finally(() => engine.release())
    } finally {
      await model.release()
    }
  }

  async run(probes: readonly Probe[], side: SidePath): Promise<Outputs> {
    const { architecture } = this.#manifest.base
    const rows = () => Array.from({ length: side.rows }, (): Float32Array[] => [])
    const outputs = { model: rows(), engine: rows() }
    for (const probe of probes) {
      const model = await runModel(this.#sessions.model, architecture, probe, side)
      const engine = await runEngine(this.#sessions.engine, architecture, probe, side)
      for (const [row, logits] of model.entries()) outputs.model[row]?.push(logits)
      for (const [row, logits] of engine.entries()) outputs.engine[row]?.push(logits)
    }
    return outputs
  }
}

/** Per probe, the logits of the graph at `path`, which has the engine's form, and takes one row with its `side`. */
export async function runOne(
  place: GraphFolder,
  { base }: Manifest,
  path: string,
  probes: readonly Probe[],
  side: SidePath = PLAIN,
): Promise<Logits> {
  const session = await openGraph(place, path)
  try {
    const logits: Float32Array[] = []
    for (const probe of probes) logits.push(...(await runEngine(session, base.architecture, probe, side)))
    return logits
  } finally {
    await session.release()
  }
}

/** What ONNX Runtime says against a graph is said of the artifact: the manifest vouches for the file, not for its sense. */
export async function openGraph(place: GraphFolder, path: string): Promise<GraphSession> {
  const refuse = (what: string) => (error: unknown) => {
    const reason = error instanceof Error ? error.message : String(error)
    throw inputError('artifact-invalid', `${place.folder.name}/${path} cannot be ${what}: ${reason}`)
  }
  const session = await place.openGraph(path).catch(refuse('opened'))
  return {
    run: (feeds, outputs) => session.run(feeds, outputs).catch(refuse('run')),
    release: () => session.release(),
  }
}

export function tallyOf(subject: Logits | undefined, reference: Logits | undefined, { base }: Manifest): Tally {
  const tally = new Tally()
  for (const [probe, logits] of (reference ?? []).entries()) {
    tally.add(subject?.[probe] ?? new Float32Array(), logits, base.architecture.vocabSize)
  }
  return tally
}
