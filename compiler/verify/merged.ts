// Merged artifacts hold neither the base nor the adapters: they are checked against a stack compiled from the sources.
import { compile } from '../compile.ts'
import type { Manifest } from '../contract.ts'
import { InputError } from '../errors.ts'
import type { Folder } from '../host.ts'
import { Graphs, KINDS, type Outputs, tallyOf } from './graphs.ts'
import { writeMergedForm } from './merged-form.ts'
import { compareDequantised } from './quantised.ts'
import type { Scratch } from './session.ts'
import { PLAIN, stackOf } from './side-path.ts'
import { NOWHERE } from './sources.ts'
import { deltasOf, loadSubject, nameOf, wholeStack } from './subjects.ts'
import { type Task, withScratch } from './task.ts'

export async function verifyMerged(task: Task): Promise<void> {
  const { artifact, manifest, sources, probes, findings, host, onStep } = task
  const subject = nameOf(manifest.adapters)
  onStep(subject)
  const own = await Graphs.with(artifact, manifest, (graphs) => graphs.run(probes, PLAIN))
  const names = { subject, form: 'merged', against: manifest.graphs.model, graph: manifest.graphs.engine }
  findings.compared(names, { rank: 1, change: 0 }, tallyOf(own.engine[0], own.model[0], manifest))
  if (manifest.quantisation !== undefined) {
    await compareDequantised(task, own, subject, PLAIN)
    if (manifest.adapters.length > 0) {
      findings.notes.push(
        'a merge that was quantised afterwards is compared with its own weights, not with its sources',
      )
    }
    return
  }
  if (manifest.adapters.length === 0) return
  const { base } = sources
  const given = new Set(sources.adapters?.map(({ name }) => name))
  if (base === undefined || manifest.adapters.some(({ name }) => !given.has(name))) {
    findings.notes.push(
      'a merged artifact holds neither its base nor its adapters; give the folders of all to compare with them',
    )
    return
  }
  await withScratch(host, async (scratch) => {
    const stacked = await stack(base, scratch, task)
    if (stacked !== undefined) await compareWithStack(own, scratch, stacked, task)
  })
}

/** The manifest of a stack of the sources, or `undefined`, with a word in the findings, where there can be none. */
async function stack(
  base: Folder,
  scratch: Scratch,
  { manifest, sources, findings, host, onStep }: Task,
): Promise<Manifest | undefined> {
  onStep('stack of the sources')
  const weights = new Map(manifest.adapters.map(({ name, weight }) => [name, weight]))
  const adapters = (sources.adapters ?? []).map(({ name, folder }) => ({
    name,
    folder,
    weight: weights.get(name) ?? 1,
  }))
  try {
    const made = await compile({ base, adapters, target: 'stacked' }, scratch.out, host)
    if (made.manifest.base.digest === manifest.base.digest) return made.manifest
    findings.problems.push(
      `${base.name}: its digest is ${made.manifest.base.digest}, but the artifact was compiled from ${manifest.base.digest}`,
    )
  } catch (error) {
    if (!(error instanceof InputError)) throw error
    findings.notes.push(
      `the adapters can be merged but not stacked, so nothing was compared with them: ${error.message}`,
    )
  }
  return undefined
}

async function compareWithStack(own: Outputs, scratch: Scratch, stacked: Manifest, task: Task): Promise<void> {
  const { manifest, probes, findings } = task
  const whole = await wholeStack(scratch.folder, stacked)
  const deltas = await deltasOf(whole, { manifest: stacked, sources: {} })
  const size = { rank: whole.rank, change: await writeMergedForm(scratch.folder, stacked, deltas, NOWHERE) }
  await Graphs.with(scratch, stacked, async (graphs) => {
    const base = await graphs.run(probes, stackOf(stacked, new Map()))
    const all = await graphs.run(probes, stackOf(stacked, whole.modules))
    findings.changed(whole.name, size, tallyOf(all.model[0], base.model[0], manifest))
    for (const kind of KINDS) {
      const names = { subject: whole.name, form: 'merged', against: 'stacked', graph: manifest.graphs[kind] }
      findings.compared(names, size, tallyOf(own[kind][0], all[kind][0], manifest))
    }
    if (stacked.adapters.length === 1) return
    for (const entry of stacked.adapters) {
      const { name, modules } = await loadSubject(scratch.folder, stacked, entry)
      const alone = await graphs.run(probes, stackOf(stacked, modules))
      findings.changed(name, size, tallyOf(alone.model[0], base.model[0], manifest))
    }
  })
}
