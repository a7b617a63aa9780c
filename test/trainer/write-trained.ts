// Trains the adapters that PEFT is asked about, for test/parity/trained-oracle.py: `node test/trainer/write-trained.ts`.
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { trainInProcess } from './train-in-process.ts'
import { asked, basePath, examples, TRAINED, trainedCases, trainOptions } from './trained-cases.ts'

await rm(TRAINED, { recursive: true, force: true })
await mkdir(TRAINED, { recursive: true })
for (const [name, { base, lora }] of trainedCases) {
  const out = await mkdtemp(join(tmpdir(), 'sidepath-trained-'))
  await trainInProcess(basePath(base), base, trainOptions(lora), examples, [], out)
  await cp(join(out, 'adapter'), join(TRAINED, name), { recursive: true })
  await rm(out, { recursive: true })
}
const cases = Object.fromEntries(trainedCases.map(([name, { base }]) => [name, base]))
await writeFile(join(TRAINED, 'asked.json'), `${JSON.stringify({ ids: asked.ids, isTarget: asked.isTarget, cases })}\n`)
