// Compiles the test matrix and has onnx.checker and ONNX Runtime for Python look at every graph of it:
// `PYTHON=<python with onnx and onnxruntime> node test/parity/check-artifacts.ts` writes oracle/artifacts.json anew.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { graphFiles } from '../../compiler/contract.ts'
import { stageFolder } from '../../runtime/disk.ts'
import { compileCase, listCases } from './artifact-matrix.ts'

interface Verdict {
  readonly checker: string
  readonly onnxruntime: string
}

const scratch = mkdtempSync(join(tmpdir(), 'sidepath-check-'))
try {
  const cases = []
  for (const [at, one] of listCases().entries()) {
    const staged = await stageFolder(join(scratch, String(at)))
    cases.push({ at, one, made: await compileCase(one, staged) })
    await staged.commit()
  }
  const script = join(import.meta.dirname, 'check-artifacts.py')
  const said = execFileSync(process.env.PYTHON ?? 'python3', [script, scratch], { encoding: 'utf8' })
  const { versions, graphs } = JSON.parse(said) as { versions: object; graphs: Record<string, Verdict> }
  const results = cases.map(({ at, one, made }) => {
    const { name } = one
    if ('refused' in made) return { name, ...made }
    const hashes = new Map(made.manifest.files.map(({ path, sha256 }) => [path, sha256]))
    const looked = graphFiles(made.manifest).map((path) => {
      return { path, sha256: hashes.get(path), ...graphs[`${at}/${path}`] }
    })
    return { name, graphs: looked }
  })
  const text = `${JSON.stringify({ versions, results }, null, 1)}\n`
  writeFileSync(join(import.meta.dirname, 'oracle', 'artifacts.json'), text)
  const verdicts = Object.values(graphs)
  const bad = verdicts.filter(({ checker, onnxruntime }) => checker !== 'ok' || onnxruntime !== 'ok')
  const refused = results.filter((result) => 'refused' in result).length
  process.stdout.write(
    `${results.length} cases, ${refused} refused by the compiler; ${verdicts.length} graphs, ${bad.length} not accepted\n`,
  )
  for (const verdict of bad) process.stdout.write(`${JSON.stringify(verdict)}\n`)
  // A stack of nothing is no artifact; whatever else is refused would be left out in silence.
  const unmade = cases.filter(
    ({ made, one }) => 'refused' in made && (one.target !== 'stacked' || one.adapters.length > 0),
  )
  for (const { one, made } of unmade) process.stdout.write(`${one.name}: ${JSON.stringify(made)}\n`)
  if (bad.length + unmade.length > 0) process.exitCode = 1
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
