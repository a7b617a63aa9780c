// Puts an engine together from an artifact: graph, cache, bank, store, tokenizer.
import { join } from 'node:path'
import { checkGraphs } from '../../compiler/check-graphs.ts'
import type { Manifest } from '../../compiler/contract.ts'
import { sitesOf } from '../../compiler/graph/sites.ts'
import type { Folder } from '../../compiler/host.ts'
import { readArtifact, verifyFiles } from '../../compiler/read-artifact.ts'
import { stackOf } from '../../compiler/verify/side-path.ts'
import { wholeStack } from '../../compiler/verify/subjects.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { openSession } from '../../runtime/node.ts'
import type { Session } from '../../runtime/session.ts'
import { BackendError } from '../errors.ts'
import { openText } from '../text/tokenizer.ts'
import { Alone } from './alone.ts'
import { Bank } from './bank.ts'
import { Cache } from './cache.ts'
import { readEndIds } from './end-ids.ts'
import { Engine } from './engine.ts'
import { createGrammars } from './grammar.ts'
import { startLoader } from './loader.ts'
import { createModel, type Model } from './model.ts'
import type { EngineInfo } from './protocol.ts'
import { chooseProvider, unusable } from './provider.ts'
import type { EngineConfig, RowEvent } from './request.ts'
import { Residency } from './residency.ts'
import { Slots } from './slots.ts'

/**
 * A second session holds the weights a second time, as ONNX Runtime lays them out for its kernels. Beyond this many bytes
 * of them, base rows run the routed graph with zeros: in a base so large that is hardly slower.
 */
const MAX_TWICE_BYTES = 1024 * 1024 * 1024
/** And a third session, for steps whose rows all use one adapter, holds them once more. */
const MAX_THRICE_BYTES = 256 * 1024 * 1024
/**
 * A step's products follow one another within some ten microseconds. Of SmolLM2-135M int4 with two threads on two cores, this
 * makes a step of one row 1.25 times as fast, and 0.93 times where somebody else keeps one of the cores busy; without a bound,
 * spinning would be half as fast there.
 */
const SPIN_US = 100
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
  /** All that the model runs. */
  readonly session: Pick<Session, 'release'>
  readonly model: Model
  /** Undefined where the graph has no low-rank path. */
  readonly bank: Pick<Bank, 'rank' | 'prepare' | 'write'> | undefined
  /** Where it runs, for people. */
  readonly provider: string
}

type ModelConfig = Pick<EngineConfig, 'artifact' | 'slots' | 'bankRank' | 'maxRows' | 'kvBudgetBytes' | 'threads'> &
  Partial<Pick<EngineConfig, 'provider' | 'prefixBudgetBytes'>>

/** The graph of an artifact with an empty cache and an empty bank. */
export async function openModel(config: ModelConfig): Promise<OpenModel> {
  const folder = openFolder(config.artifact)
  const { id, manifest } = await readArtifact(folder, nodeHost)
  const { layers, kvHeads, headDim, maxPositions } = manifest.base.architecture
  const { maxRows, kvBudgetBytes: budgetBytes, prefixBudgetBytes: prefixBytes } = config
  const shape = { layers, kvHeads, headDim, maxPositions, maxRows, budgetBytes, prefixBytes }
  const cache = new Cache(shape)
  if (!cache.fits(1)) {
    throw new BackendError('config_invalid', `kvBudgetBytes ${budgetBytes} does not hold one row of this model`)
  }
  const routed = manifest.bank.length > 0
  const rank = config.bankRank ?? Math.max(0, ...manifest.adapters.map(({ r }) => r))
  const size = routed ? { slots: config.slots + 1, rank: rank || DEFAULT_BANK_RANK, rows: maxRows } : undefined
  await checkGraphs(folder, manifest)
  // The adapters of a stack are inputs of every run, and the same in each.
  const fixed =
    manifest.target === 'stacked' ? stackOf(manifest, (await wholeStack(folder, manifest)).modules).feeds : {}
  const provider = await chooseProvider(config.provider ?? 'cpu')
  if (provider === 'webgpu' || provider === 'wasm') {
    const { openWebModel } = await import('./open-web.ts')
    const { model, bank, device, release } = await openWebModel(folder, manifest, {
      provider,
      cache: shape,
      bank: size,
      fixed,
    })
    return { folder, id, manifest, session: { release }, model, bank, provider: `${provider} on ${device}` }
  }
  const bank = size && new Bank(sitesOf(manifest.base.architecture), size)
  const open = (graph: string) =>
    openSession(join(config.artifact, graph), { threads: config.threads, provider, spinUs: SPIN_US }).catch((error) => {
      // The binaries are there, and what they need (a GPU, CUDA's own libraries) may not be.
      throw provider === 'cuda' ? unusable(provider, String(error)) : error
    })
  const session = await open(manifest.graphs.engine)
  const openOwn = (graph: string | undefined, most: number) =>
    graph !== undefined && weightBytes(manifest) <= most ? open(graph) : undefined
  const base = await openOwn(manifest.graphs.base, MAX_TWICE_BYTES)
  const shared = await openOwn(manifest.graphs.shared, MAX_THRICE_BYTES)
  const alone = shared && new Alone(shared, sitesOf(manifest.base.architecture))
  const model = createModel({ manifest, session, base, alone, cache, bank, fixed })
  const release = async (): Promise<void> => {
    for (const one of [session, base, shared]) await one?.release()
  }
  return { folder, id, manifest, session: { release }, model, bank, provider }
}

function weightBytes({ files }: Manifest): number {
  return files.reduce((sum, { path, bytes }) => sum + (path.endsWith('.onnx_data') ? bytes : 0), 0)
}

export async function openEngine(
  config: EngineConfig,
  emit: (events: readonly RowEvent[], engine: Engine) => void,
): Promise<OpenEngine> {
  const { folder, id, manifest, session, model, bank, provider } = await openModel(config)
  // Once per start, so that what is served is what was compiled.
  await verifyFiles(folder, manifest, nodeHost)
  const text = await openText(folder)
  const folders = [join(config.artifact, 'adapters'), ...config.storeDirs]
  const loader = bank && startLoader({ manifest, rank: bank.rank, folders })
  const residency =
    bank &&
    loader &&
    new Residency({
      slots: new Slots(config.slots),
      bank,
      hostBudgetBytes: config.hostBudgetBytes,
      read: loader.read,
      onDropped: loader.giveBack,
      onLoaded: (digest, error) => engine.adapterLoaded(digest, error),
    })
  const endIds = await readEndIds(folder, manifest)
  const { layers, kvHeads, headDim, vocabSize } = manifest.base.architecture
  const kvTokenBytes = layers * kvHeads * headDim * 2 * Float32Array.BYTES_PER_ELEMENT
  const slots = residency === undefined ? 0 : config.slots
  // With adapters merged into it or stacked on it, it is another base: nobody who asks for the plain one may get it.
  const base = manifest.target !== 'routed' && manifest.adapters.length > 0 ? id : manifest.base.digest
  const engine: Engine = new Engine({
    base,
    model,
    adapters: residency,
    slots,
    endIds,
    decode: text?.decode,
    grammars: createGrammars(
      text?.tokens && {
        tokens: text.tokens.spelt,
        spelling: text.tokens.spelling,
        endIds: [...endIds],
        size: vocabSize,
      },
    ),
    kvTokens: Math.floor(config.kvBudgetBytes / kvTokenBytes),
    maxQueue: config.maxQueue,
    prefillTokens: config.prefillTokens,
    emit: (events) => emit(events, engine),
  })
  const info = { base, maxPositions: model.maxPositions, vocabSize, slots, provider }
  return {
    engine,
    info,
    async close() {
      await engine.stop()
      await loader?.close()
      await session.release()
    },
  }
}
