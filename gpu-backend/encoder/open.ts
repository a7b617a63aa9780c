// Puts an encoder's engine together from an artifact: graph, bank, store.
import { join } from 'node:path'
import { checkGraphs } from '../../compiler/check-graphs.ts'
import { type EncoderManifest, graphNames } from '../../compiler/contract.ts'
import type { Folder } from '../../compiler/host.ts'
import { verifyFiles } from '../../compiler/read-artifact.ts'
import { stackOf } from '../../compiler/verify/side-path.ts'
import { wholeStack } from '../../compiler/verify/subjects.ts'
import { nodeHost } from '../../runtime/disk.ts'
import { openSession } from '../../runtime/node.ts'
import type { Tensor } from '../../runtime/session.ts'
import { mixReader } from '../engine/mix.ts'
import { DEFAULT_BANK_RANK } from '../engine/open.ts'
import type { EngineInfo } from '../engine/protocol.ts'
import type { EngineConfig } from '../engine/request.ts'
import { Residency } from '../engine/residency.ts'
import { Slots } from '../engine/slots.ts'
import { adapterReader } from '../engine/store.ts'
import { BackendError } from '../errors.ts'
import { Embedder, type EncoderRow } from './embedder.ts'
import { type HeldFactors, hold, SlotBank } from './slot-bank.ts'

export interface OpenEncoder {
  readonly engine: Embedder
  readonly info: EngineInfo
  close(): Promise<void>
}

export async function openEncoder(
  config: EngineConfig,
  folder: Folder,
  { id, manifest }: { readonly id: string; readonly manifest: EncoderManifest },
): Promise<OpenEncoder> {
  const { architecture, digest } = manifest.base
  if (manifest.pooling === undefined) {
    const message = `${folder.name} is an encoder for ${manifest.task}; the backend serves those for sentence-embedding`
    throw new BackendError('artifact_unsuitable', message)
  }
  await checkGraphs(folder, manifest)
  await verifyFiles(folder, manifest, nodeHost)
  const rank = config.bankRank ?? Math.max(0, ...manifest.adapters.map(({ r }) => r))
  const bank =
    manifest.bank.length > 0 ? new SlotBank(manifest.bank, config.slots + 1, rank || DEFAULT_BANK_RANK) : undefined
  // The adapters of a stack are inputs of every run, and the same in each.
  const fixed =
    manifest.target === 'stacked' ? stackOf(manifest, (await wholeStack(folder, manifest)).modules).feeds : {}
  const session = await openSession(join(config.artifact, manifest.graphs.model), { threads: config.threads })
  const isBert = architecture.family === 'bert'

  async function run(rows: readonly EncoderRow[]): Promise<Float32Array[]> {
    const feeds: Record<string, Tensor> = { ...fixed, ...textFeeds(rows, isBert) }
    if (bank !== undefined) {
      Object.assign(feeds, rows.every(({ slot }) => slot === 0) ? bank.baseFeeds : bank.feeds)
      feeds[graphNames.adapterSlots] = {
        data: BigInt64Array.from(rows, ({ slot }) => BigInt(slot)),
        dims: [rows.length],
      }
    }
    const results = await session.run(feeds, [graphNames.sentenceEmbedding])
    const all = results[graphNames.sentenceEmbedding]!.data as Float32Array
    const width = all.length / rows.length
    return rows.map((_, at) => all.slice(at * width, (at + 1) * width))
  }

  const rankLimit = bank?.rank ?? 0
  const read = mixReader(
    adapterReader(manifest, rankLimit, [join(config.artifact, 'adapters'), ...config.storeDirs]),
    rankLimit,
  )
  const residency =
    bank &&
    new Residency<HeldFactors>({
      slots: new Slots(config.slots),
      bank,
      hostBudgetBytes: config.hostBudgetBytes,
      read: async (adapter, mix) => hold(await read(adapter, mix)),
      onLoaded: (loaded, error) => engine.adapterLoaded(loaded, error),
    })
  const slots = residency === undefined ? 0 : config.slots
  const engine: Embedder = new Embedder({ run, adapters: residency, slots, maxQueue: config.maxQueue })
  // As for decoders: with adapters merged into it or stacked on it, it is another base.
  const base = manifest.target !== 'routed' && manifest.adapters.length > 0 ? id : digest
  const width = architecture.hiddenSize * manifest.pooling.modes.length
  const maxPositions = Math.min(manifest.maxTokens, architecture.maxPositions)
  return {
    engine,
    info: { base, maxPositions, vocabSize: architecture.vocabSize, slots, provider: 'cpu', embeddingWidth: width },
    async close() {
      await engine.stop()
      await session.release()
    },
  }
}

/** [rows, tokens], padded on the right. */
function textFeeds(rows: readonly EncoderRow[], isBert: boolean): Record<string, Tensor> {
  const tokens = Math.max(...rows.map((row) => row.tokens.length))
  const dims = [rows.length, tokens]
  const ids = new BigInt64Array(rows.length * tokens)
  const mask = new BigInt64Array(rows.length * tokens)
  for (const [at, row] of rows.entries()) {
    for (const [token, id] of row.tokens.entries()) {
      ids[at * tokens + token] = BigInt(id)
      mask[at * tokens + token] = 1n
    }
  }
  return {
    [graphNames.inputIds]: { data: ids, dims },
    [graphNames.attentionMask]: { data: mask, dims },
    ...(isBert ? { [graphNames.tokenTypeIds]: { data: new BigInt64Array(ids.length), dims } } : {}),
  }
}
