// The demo with its three adapters, compiled.
import { join } from 'node:path'
import { compile } from '../../compiler/compile.ts'
import { nodeHost, openFolder, stageFolder } from '../../runtime/disk.ts'

const DEMO = join(import.meta.dirname, '..', '..', 'examples', 'demo')
const ADAPTERS = ['triage', 'dates', 'clauses']

export async function compileDemoTo(artifact: string) {
  const out = await stageFolder(artifact)
  const adapters = ADAPTERS.map((name) => ({ name, folder: openFolder(join(DEMO, 'adapters', name)) }))
  const { manifest } = await compile(
    { base: openFolder(join(DEMO, 'base')), adapters, target: 'routed' },
    out,
    nodeHost,
  )
  await out.commit()
  return { artifact, manifest, digests: manifest.adapters.map(({ digest }) => digest) }
}
