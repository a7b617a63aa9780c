// What the doctor learns by running the model: a routed artifact of base and adapters in a temporary folder.
import { join } from 'node:path'
import { compile } from '../../compiler/compile.ts'
import { type ReadAdapter, withMeasured } from '../../compiler/doctor/diagnose.ts'
import { compareRanks, rungsBelow, smallestSufficient, truncate } from '../../compiler/doctor/evidence.ts'
import { type Model, windowsOf } from '../../compiler/doctor/logits.ts'
import { difference, figuresOfLoss, type Losses, measureLosses } from '../../compiler/doctor/losses.ts'
import type { AdapterReport, DoctorReport } from '../../compiler/doctor/report.ts'
import { spectrumOf } from '../../compiler/doctor/spectrum.ts'
import type { Folder } from '../../compiler/host.ts'
import { openGraph } from '../../compiler/verify/graphs.ts'
import type { Modules } from '../../compiler/verify/side-path.ts'
import { loadSubject } from '../../compiler/verify/subjects.ts'
import { openText } from '../../gpu-backend/text/tokenizer.ts'
import { nodeHost, openFolder, stageFolder } from '../../runtime/disk.ts'
import type { AdapterSpec } from '../adapter-spec.ts'
import { graphFolder } from '../graph-folder.ts'
import { withTemporaryFolder } from '../temporary-folder.ts'
import { readTexts } from './read-data.ts'

export interface MeasureInput {
  readonly base: Folder
  readonly specs: readonly AdapterSpec[]
  readonly adapters: readonly ReadAdapter[]
  /** Of the task: the losses, by adapter and by rank. */
  readonly data: string | undefined
  /** Of anything else: what was forgotten. */
  readonly general: string
  readonly maxTokens: number
}

const KEEP_SILENT = () => {}

/** The report with losses, and with the verdicts that they change. */
export async function withMeasurements(
  report: DoctorReport,
  input: MeasureInput,
  onStep: (what: string) => void = KEEP_SILENT,
): Promise<DoctorReport> {
  return withTemporaryFolder('doctor', async (parent) => {
    onStep('compile')
    const path = await compileRouted(join(parent, 'artifact'), input)
    const { folder, manifest } = path
    const session = await openGraph(graphFolder(folder.path), manifest.graphs.model)
    try {
      return await measure(report, input, { session, manifest }, folder.path, onStep)
    } finally {
      await session.release()
    }
  })
}

async function compileRouted(path: string, { base, specs }: MeasureInput) {
  const out = await stageFolder(path)
  const adapters = specs.map((spec) => ({ name: spec.name, folder: openFolder(spec.path) }))
  const { manifest } = await compile({ base, adapters, target: 'routed' }, out, nodeHost)
  return { folder: out, manifest }
}

async function measure(
  report: DoctorReport,
  { adapters, data, general, maxTokens }: MeasureInput,
  model: Model,
  path: string,
  onStep: (what: string) => void,
): Promise<DoctorReport> {
  const { manifest } = model
  const { vocabSize, maxPositions } = manifest.base.architecture
  const folder = openFolder(path)
  const text = await openText(folder)
  const modules: Modules[] = []
  for (const { name } of adapters) {
    const entry = manifest.adapters.find((one) => one.name === name)
    if (entry === undefined) throw new Error(`sidepath bug: the artifact has no adapter "${name}"`)
    modules.push((await loadSubject(folder, manifest, entry)).modules)
  }
  const windows = async (file: string) => windowsOf(await readTexts(file, text, { vocabSize, maxTokens }), maxPositions)
  const notes = [...report.notes]
  onStep('general text')
  const canReadText = text !== undefined || general.endsWith('.jsonl')
  if (!canReadText)
    notes.push('forgetting was not measured: the base has no tokenizer; give --general as JSONL of token_ids')
  const forgotten = canReadText ? await measureLosses(model, await windows(general), modules) : undefined
  const task = data === undefined ? undefined : await windows(data)
  const candidates = adapters.map(({ name, modules: own }) => ({
    name,
    ranks: new Map([...own].map(([path, { r }]) => [path, r])),
  }))
  if (task !== undefined) onStep('task')
  const losses = task === undefined ? undefined : await measureLosses(model, task, modules)
  const measured: DoctorReport['adapters'] = []
  for (const [place, adapter] of report.adapters.entries()) {
    const forgetting = forgotten && figuresOfLoss(forgotten, place)
    const ofTask = losses && figuresOfLoss(losses, place)
    const comparison = losses && compareRanks(candidates, losses, place)
    onStep(`ranks of ${adapter.name}`)
    const ladder = task && losses && (await ladderOf(model, task, adapters[place] as ReadAdapter, losses, place))
    const found = {
      ...(forgetting && { forgetting }),
      ...(ofTask && { task: ofTask }),
      ...(comparison && { comparison }),
      ...(ladder && { ladder }),
    }
    measured.push(withMeasured(adapter, found))
  }
  return { ...report, adapters: measured, notes }
}

/** The loss with the first k directions of every module, k = 1, 2, 4 …, against the whole adapter. */
async function ladderOf(
  model: Model,
  windows: Parameters<typeof measureLosses>[1],
  { modules }: ReadAdapter,
  whole: Losses,
  place: number,
): Promise<AdapterReport['ladder']> {
  const largest = Math.max(...[...modules.values()].map(({ r }) => r))
  const ks = rungsBelow(largest)
  if (ks.length === 0) return undefined
  const spectra = new Map([...modules].map(([path, module]) => [path, spectrumOf(module)]))
  const variants = ks.map((k) => truncate(spectra, k))
  const { tokens, variants: found } = await measureLosses(model, windows, variants)
  const full = whole.variants[place]?.losses ?? []
  const rungs = found.map(({ losses }, i) => {
    const loss = losses.reduce((sum, value) => sum + value, 0) / tokens.reduce((sum, n) => sum + n, 0)
    return { k: ks[i] as number, loss, lost: difference(tokens, losses, full) }
  })
  return { rungs, sufficient: smallestSufficient(rungs, difference(tokens, whole.base, full).value, largest) }
}
