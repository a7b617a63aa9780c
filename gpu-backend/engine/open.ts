// Puts an engine together from an artifact: graph, cache, bank, store, tokenizer.
import { join } from 'node:path'
import { checkGraphs } from '../../compiler/check-graphs.ts'
import type { Manifest } from '../../compiler/contract.ts'
import type { Folder } from '../../compiler/host.ts'
import { readArtifact, verifyFiles } from '../../compiler/read-artifact.ts'
import { stackOf } from '../../compiler/verify/side-path.ts'
import { wholeStack } from '../../compiler/verify/subjects.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { openSession, type Session } from '../../runtime/node.ts'
import { BackendError } from '../errors.ts'
import { openText } from '../text/tokenizer.ts'
import { Bank } from './bank.ts'
import { Cache } from './cache.ts'
import { readEndIds } from './end-ids.ts'
import { Engine } from './engine.ts'
import { mixReader } from './mix.ts'
import { createModel, type Model } from './model.ts'
import type { EngineInfo } from './protocol.ts'
import type { EngineConfig, RowEvent } from './request.ts'
import { Residency } from './residency.ts'
import { Slots } from './slots.ts'
import { adapterReader } from './store.ts'

/** Rank of the bank when the artifact has no adapter that says how large it should be. */
export const DEFAULT_BANK_RANK = 16

export interface OpenEngine {
  readonly engine: Engine
  readonly info: EngineInfo
  close(): Promise<void>
}

export interface OpenModel {
  readonly folder: Folder
  readonly id: string
  readonly manifest: Manifest
  readonly session: Session
  readonly model: Model
  /** Undefined where the graph has no low-rank path. */
  readonly bank: Bank | undefined
}

type ModelConfig = Pick<EngineConfig, 'artifact' | 'slots' | 'bankRank' | 'maxRows' | 'kvBudgetBytes' | 'threads'>

/** The graph of an artifact with an empty cache and an empty bank. */
export async function openModel(config: ModelConfig): Promise<OpenModel> {
  const folder = openFolder(config.artifact)
  const { id, manifest } = await readArtifact(folder, nodeHost)
  const { layers, kvHeads, headDim, maxPositions } = manifest.base.architecture
  const { maxRows, kvBudgetBytes: budgetBytes } = config
  const cache = new Cache({ layers, kvHeads, headDim, maxPositions, maxRows, budgetBytes })
  if (!cache.fits(1)) {
    throw new BackendError('config_invalid', `kvBudgetBytes ${budgetBytes} does not hold one row of this model`)
  }
  const routed = manifest.bank.length > 0
  const rank = config.bankRank ?? Math.max(0, ...manifest.adapters.map(({ r }) => r))
  const bank = routed ? new Bank(manifest.bank, config.slots + 1, rank || DEFAULT_BANK_RANK) : undefined
  await checkGraphs(folder, manifest)
  // The adapters of a stack are inputs of every run, and the same in each.
  const fixed =
    manifest.target === 'stacked' ? stackOf(manifest, (await wholeStack(folder, manifest)).modules).feeds : {}
  const session = await openSession(join(config.artifact, manifest.graphs.engine), { threads: config.threads })
  return { folder, id, manifest, session, model: createModel({ manifest, session, cache, bank, fixed }), bank }
}

export async function openEngine(
  config: EngineConfig,
  emit: (events: readonly RowEvent[], engine: Engine) => void,
): Promise<OpenEngine> {
  const { folder, id, manifest, session, model, bank } = await openModel(config)
  // Once per start, so that what is served is what was compiled.
  await verifyFiles(folder, manifest, nodeHost)
  const text = await openText(folder)
  const residency =
    bank &&
    new Residency({
      slots: new Slots(config.slots),
      bank,
      read: mixReader(
        adapterReader(manifest, bank.rank, [join(config.artifact, 'adapters'), ...config.storeDirs]),
        bank.rank,
      ),
      onLoaded: (digest, error) => engine.adapterLoaded(digest, error),
    })
  const endIds = await readEndIds(folder, manifest)
  const { layers, kvHeads, headDim, vocabSize } = manifest.base.architecture
  const kvTokenBytes = layers * kvHeads * headDim * 2 * Float32Array.BYTES_PER_ELEMENT
  const slots = residency === undefined ? 0 : config.slots
  const engine: Engine = new Engine({
    model,
    adapters: residency,
    slots,
    endIds,
    decode: text?.decode,
    vocabulary: text?.tokens && {
      tokens: text.tokens.spelt,
      spelling: text.tokens.spelling,
      endIds: [...endIds],
      size: vocabSize,
    },
    kvTokens: Math.floor(config.kvBudgetBytes / kvTokenBytes),
    maxQueue: config.maxQueue,
    prefillTokens: config.prefillTokens,
    emit: (events) => emit(events, engine),
  })
  // With adapters merged into it or stacked on it, it is another base: nobody who asks for the plain one may get it.
  const base = manifest.target !== 'routed' && manifest.adapters.length > 0 ? id : manifest.base.digest
  const info = { base, maxPositions: model.maxPositions, vocabSize, slots }
  return {
    engine,
    info,
    async close() {
      await engine.stop()
      await session.release()
    },
  }
}
