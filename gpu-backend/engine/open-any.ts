// Whatever the artifact is, a decoder or an encoder, behind one face for the worker thread.
import { isEncoder } from '../../compiler/contract.ts'
import { readAnyArtifact } from '../../compiler/read-artifact.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import type { Mix } from '../contract.ts'
import { openEncoder } from '../encoder/open.ts'
import { BackendError } from '../errors.ts'
import { toFailure } from './failure.ts'
import { openEngine } from './open.ts'
import type { EngineInfo } from './protocol.ts'
import type { EmbedRequest, EngineConfig, GenerateRequest, RowEvent, Stats } from './request.ts'
import type { Resident } from './slots.ts'

export interface AnyEngine {
  readonly info: EngineInfo
  readonly stats: Stats
  /** The outcome comes through `emit`. */
  submit(id: number, request: GenerateRequest): void
  embed(id: number, request: EmbedRequest): Promise<Float32Array[]>
  abort(id: number): void
  load(digest: string, mix?: Mix): Promise<number>
  unload(digest: string): void
  residents(): Resident[]
  close(): Promise<void>
}

export async function openAny(
  config: EngineConfig,
  emit: (events: readonly RowEvent[], stats: Stats) => void,
): Promise<AnyEngine> {
  const folder = openFolder(config.artifact)
  const { id, manifest } = await readAnyArtifact(folder, nodeHost)
  if (!isEncoder(manifest)) {
    const { engine, info, close } = await openEngine(config, (events, { stats }) => emit(events, stats))
    return faceOf(engine, { info, close, submit: (row, request) => engine.submit(row, request), embed: refuseToEmbed })
  }
  const { engine, info, close } = await openEncoder(config, folder, { id, manifest })
  return faceOf(engine, {
    info,
    close,
    submit: (row) => emit([{ id: row, failure: toFailure(unfit('embeds texts and generates none')) }], engine.stats),
    embed: (job, request) => engine.embed(job, request),
  })
}

type Common = Pick<AnyEngine, 'stats' | 'abort' | 'load' | 'unload' | 'residents'>

function faceOf(engine: Common, own: Omit<AnyEngine, keyof Common>): AnyEngine {
  return {
    ...own,
    get stats() {
      return engine.stats
    },
    abort: (id) => engine.abort(id),
    load: (digest, mix) => engine.load(digest, mix),
    unload: (digest) => engine.unload(digest),
    residents: () => engine.residents(),
  }
}

async function refuseToEmbed(): Promise<never> {
  throw unfit('generates texts and embeds none')
}

function unfit(what: string): BackendError {
  return new BackendError('request_invalid', `the base of this backend ${what}`)
}
