// Verification of an encoder's artifact: padding changes nothing, the low-rank path of each adapter computes what its merged
// form does, and a merge computes what a stack of its sources does. As for decoders, with one graph and no cache.
import { type EncoderManifest, graphNames } from '../contract.ts'
import { InputError } from '../errors.ts'
import { DATA_FILE } from '../graph/weights.ts'
import type { Folder } from '../host.ts'
import { Tally } from '../verify/compare.ts'
import { openGraph } from '../verify/graphs.ts'
import { type Deltas, type Summand, writeMergedForm } from '../verify/merged-form.ts'
import type { Probe } from '../verify/probes.ts'
import { floatsOf, repeat } from '../verify/run-model.ts'
import { type Feeds, type GraphFolder, type GraphSession, ints } from '../verify/session.ts'
import { bankOf, PLAIN, type SidePath, stackOf } from '../verify/side-path.ts'
import { NOWHERE } from '../verify/sources.ts'
import { loadSubject, nameOf, type Subject, wholeStack } from '../verify/subjects.ts'
import { type Task, withScratch } from '../verify/task.ts'
import { compileEncoder } from './compile.ts'
import { openEncoder } from './open.ts'
import { readEncoderAdapters } from './read-adapters.ts'

export type EncoderTask = Omit<Task, 'manifest'> & { readonly manifest: EncoderManifest }

/** Output → per probe, its values at every token, or of the text. */
type Outputs = ReadonlyMap<string, readonly Float32Array[]>

/** Adapters that share a batch, and so the memory for their slots. */
const BATCH_ADAPTERS = 4

const RESULTS = {
  classification: graphNames.logits,
  'sentence-embedding': graphNames.sentenceEmbedding,
  'hidden-states': graphNames.lastHiddenState,
} as const

export async function verifyEncoder(task: EncoderTask): Promise<void> {
  const { artifact, manifest, sources } = task
  const keepsBase = manifest.target !== 'merged' || manifest.adapters.length === 0
  if (sources.base !== undefined && keepsBase) await checkBase(sources.base, task)
  await withGraph(artifact, manifest, async (session) => {
    await verifyPadding(session, task)
    if (manifest.target === 'merged') await verifyMerged(session, task)
    else await verifyLowRank(session, task)
  })
}

/** Each probe alone against all probes in one batch, padded to the longest. */
async function verifyPadding(
  session: GraphSession,
  { manifest, probes, findings, onStep }: EncoderTask,
): Promise<void> {
  onStep('padding')
  const subject = manifest.target === 'merged' ? nameOf(manifest.adapters) : 'base'
  const [alone] = await runEach(session, manifest, probes, baseSide(manifest))
  const together = await runTogether(session, manifest, probes)
  compare(
    together,
    alone as Outputs,
    { subject, form: 'padded batch', against: 'alone' },
    { rank: 1, change: 0 },
    {
      manifest,
      findings,
    },
  )
}

async function verifyLowRank(session: GraphSession, task: EncoderTask): Promise<void> {
  const { artifact, manifest } = task
  const verifySome = async (subjects: readonly Subject[]) => {
    if (subjects.length === 0) return
    for (const [index, own] of (await runSubjects(session, subjects, task)).entries()) {
      await verifySubject(subjects[index] as Subject, own, task)
    }
  }
  for (let at = 0; at < manifest.adapters.length; at += BATCH_ADAPTERS) {
    const subjects: Subject[] = []
    for (const entry of manifest.adapters.slice(at, at + BATCH_ADAPTERS)) {
      subjects.push(await loadSubject(artifact.folder, manifest, entry))
    }
    await verifySome(subjects)
  }
  if (manifest.target === 'stacked' && manifest.adapters.length > 1) {
    await verifySome([await wholeStack(artifact.folder, manifest)])
  }
}

interface Run {
  readonly own: Outputs
  readonly plain: Outputs
}

/** Each subject's outputs beside those of the base from a run of the same shape. Routed ones share a batch. */
async function runSubjects(session: GraphSession, subjects: readonly Subject[], task: EncoderTask): Promise<Run[]> {
  const { manifest, probes } = task
  if (manifest.target === 'routed') {
    const side = bankOf(
      manifest,
      subjects.map(({ modules }) => modules),
    )
    const [plain, ...own] = await runEach(session, manifest, probes, side)
    return own.map((outputs) => ({ own: outputs, plain: plain as Outputs }))
  }
  const [plain] = await runEach(session, manifest, probes, baseSide(manifest))
  const runs: Run[] = []
  for (const { modules } of subjects) {
    const [own] = await runEach(session, manifest, probes, stackOf(manifest, modules))
    runs.push({ own: own as Outputs, plain: plain as Outputs })
  }
  return runs
}

async function verifySubject(subject: Subject, { own, plain }: Run, task: EncoderTask): Promise<void> {
  const { artifact, manifest, probes, findings, host, onStep } = task
  const { name, rank } = subject
  onStep(name)
  const deltas = await deltasOf(subject, task)
  const { change, merged } = await withScratch(host, async (scratch) => ({
    change: await writeMergedForm(artifact.folder, manifest, deltas, scratch.out),
    merged: await withGraph(scratch, manifest, async (copy) => {
      const [outputs] = await runEach(copy, manifest, probes, baseSide(manifest))
      return outputs as Outputs
    }),
  }))
  const size = { rank, change }
  findings.changed(name, size, tallyOf(own, plain, RESULTS[manifest.task], manifest))
  compare(own, merged, { subject: name, form: manifest.target, against: 'merged' }, size, task)
}

async function verifyMerged(session: GraphSession, task: EncoderTask): Promise<void> {
  const { manifest, sources, probes, findings, host, onStep } = task
  if (manifest.adapters.length === 0) return
  const { base, adapters = [] } = sources
  const given = new Map(adapters.map(({ name, folder }) => [name, folder]))
  if (base === undefined || manifest.adapters.some(({ name }) => !given.has(name))) {
    findings.notes.push(
      'a merged artifact holds neither its base nor its adapters; give the folders of all to compare with them',
    )
    return
  }
  onStep('stack of the sources')
  const [own] = await runEach(session, manifest, probes, PLAIN)
  await withScratch(host, async (scratch) => {
    const inputs = manifest.adapters.map(({ name, weight }) => ({ name, weight, folder: given.get(name) as Folder }))
    const { manifest: stacked } = await compileEncoder({ base, adapters: inputs, target: 'stacked' }, scratch.out, host)
    if (stacked.base.digest !== manifest.base.digest) {
      findings.problems.push(wrongBase(base, stacked, manifest))
      return
    }
    const whole = await wholeStack(scratch.folder, stacked)
    const change = await writeMergedForm(scratch.folder, stacked, fromFactors(whole), NOWHERE)
    await withGraph(scratch, stacked, async (graph) => {
      const [all] = await runEach(graph, stacked, probes, stackOf(stacked, whole.modules))
      const [plain] = await runEach(graph, stacked, probes, baseSide(stacked))
      const size = { rank: whole.rank, change }
      findings.changed(whole.name, size, tallyOf(all as Outputs, plain as Outputs, RESULTS[manifest.task], manifest))
      const names = { subject: whole.name, form: 'merged', against: 'stacked' }
      compare(own as Outputs, all as Outputs, names, size, task)
    })
  })
}

/** What the merged form adds to the base: as the sources say where base and adapters are given, else as the files do. */
async function deltasOf(subject: Subject, { sources, manifest }: EncoderTask): Promise<Deltas> {
  const { base, adapters = [] } = sources
  const given = new Map(adapters.map(({ name, folder }) => [name, folder]))
  const inputs = subject.entries.flatMap(({ name, weight }) => {
    const folder = given.get(name)
    return folder === undefined ? [] : [{ name, folder, weight }]
  })
  if (base === undefined || inputs.length < subject.entries.length) return fromFactors(subject)
  const checkpoint = await openEncoder(base)
  try {
    const deltas = new Map<string, Summand[]>()
    for (const { weight, modules } of await readEncoderAdapters(inputs, manifest.target, checkpoint)) {
      for (const { linear, r, scaling, A, B } of modules) {
        const list = deltas.get(linear.module) ?? []
        deltas.set(linear.module, [...list, { r, scale: weight * scaling, A, B }])
      }
    }
    return deltas
  } finally {
    await checkpoint.close()
  }
}

const fromFactors = ({ modules }: Subject): Deltas =>
  new Map([...modules].map(([path, module]): [string, Summand[]] => [path, [{ ...module, scale: 1 }]]))

/** The weights of an artifact that keeps its base are the base's, byte for byte. Writes nothing. */
async function checkBase(base: Folder, { manifest, host, findings }: EncoderTask): Promise<void> {
  try {
    const { manifest: made } = await compileEncoder({ base, adapters: [], target: 'merged' }, NOWHERE, host)
    const data = ({ files }: EncoderManifest) => files.find(({ path }) => path === DATA_FILE)?.sha256
    if (made.base.digest !== manifest.base.digest) findings.problems.push(wrongBase(base, made, manifest))
    else if (data(made) !== data(manifest)) {
      findings.problems.push(`${DATA_FILE} does not hold the weights of ${base.name}`)
    }
  } catch (error) {
    if (!(error instanceof InputError)) throw error
    findings.problems.push(...error.problems.map(({ message }) => message))
  }
}

function wrongBase({ name }: Folder, made: EncoderManifest, { base }: EncoderManifest): string {
  return `${name}: its digest is ${made.base.digest}, but the artifact was compiled from ${base.digest}`
}

function compare(
  own: Outputs,
  reference: Outputs,
  names: { readonly subject: string; readonly form: string; readonly against: string },
  size: { readonly rank: number; readonly change: number },
  { manifest, findings }: Pick<EncoderTask, 'manifest' | 'findings'>,
): void {
  for (const output of manifest.outputs) {
    const graph = `${manifest.graphs.model} ${output}`
    findings.compared({ ...names, graph }, size, tallyOf(own, reference, output, manifest))
  }
}

function tallyOf(own: Outputs, reference: Outputs, output: string, { labels, base, pooling }: EncoderManifest): Tally {
  const { hiddenSize } = base.architecture
  const widths: Readonly<Record<string, number>> = {
    [graphNames.logits]: labels?.length ?? 1,
    [graphNames.sentenceEmbedding]: hiddenSize * (pooling?.modes.length ?? 1),
  }
  const tally = new Tally()
  for (const [probe, values] of (reference.get(output) ?? []).entries()) {
    tally.add(own.get(output)?.[probe] ?? new Float32Array(), values, widths[output] ?? hiddenSize)
  }
  return tally
}

function baseSide(manifest: EncoderManifest): SidePath {
  if (manifest.target === 'merged') return PLAIN
  return manifest.target === 'stacked' ? stackOf(manifest, new Map()) : bankOf(manifest, [])
}

/** One run a probe, of as many equal rows as `side` has variants; gives each variant's outputs. */
async function runEach(
  session: GraphSession,
  manifest: EncoderManifest,
  probes: readonly Probe[],
  { rows, feeds }: SidePath,
): Promise<Outputs[]> {
  const variants = Array.from({ length: rows }, () => emptyOutputs(manifest))
  for (const { ids } of probes) {
    const texts = Array.from({ length: rows }, () => ids)
    const results = await session.run({ ...feeds, ...textFeeds(manifest, texts) }, manifest.outputs)
    for (const output of manifest.outputs) {
      const values = floatsOf(results, output)
      const size = values.length / rows
      for (const [row, variant] of variants.entries()) {
        variant.get(output)?.push(values.subarray(row * size, (row + 1) * size))
      }
    }
  }
  return variants
}

/** All probes in one run, as the base; what stands at padding is left out. */
async function runTogether(
  session: GraphSession,
  manifest: EncoderManifest,
  probes: readonly Probe[],
): Promise<Outputs> {
  const texts = probes.map(({ ids }) => ids)
  const { feeds } = baseSide(manifest)
  const slots =
    manifest.bank.length === 0 ? {} : { [graphNames.adapterSlots]: ints(repeat([0], texts.length), texts.length) }
  const results = await session.run({ ...feeds, ...slots, ...textFeeds(manifest, texts) }, manifest.outputs)
  const outputs = emptyOutputs(manifest)
  for (const output of manifest.outputs) {
    const values = floatsOf(results, output)
    const size = values.length / texts.length
    for (const [row, { length }] of texts.entries()) {
      const kept = output === graphNames.lastHiddenState ? length * manifest.base.architecture.hiddenSize : size
      outputs.get(output)?.push(values.subarray(row * size, row * size + kept))
    }
  }
  return outputs
}

const emptyOutputs = (manifest: EncoderManifest) =>
  new Map(manifest.outputs.map((output): [string, Float32Array[]] => [output, []]))

/** Rows padded on the right with token 0, of token type 0. */
function textFeeds({ base }: EncoderManifest, texts: readonly (readonly number[])[]): Feeds {
  const tokens = Math.max(...texts.map(({ length }) => length))
  const pad = (values: readonly number[]) => [...values, ...repeat([0], tokens - values.length)]
  const shaped = (rows: readonly (readonly number[])[]) => ints(rows.flatMap(pad), texts.length, tokens)
  return {
    [graphNames.inputIds]: shaped(texts),
    [graphNames.attentionMask]: shaped(texts.map((ids) => ids.map(() => 1))),
    ...(base.architecture.family === 'bert' ? { [graphNames.tokenTypeIds]: shaped(texts.map(() => [])) } : {}),
  }
}

async function withGraph<T>(
  place: GraphFolder,
  manifest: EncoderManifest,
  use: (session: GraphSession) => Promise<T>,
): Promise<T> {
  const session = await openGraph(place, manifest.graphs.model)
  try {
    return await use(session)
  } finally {
    await session.release()
  }
}
