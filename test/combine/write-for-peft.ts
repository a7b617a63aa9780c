// Writes combined adapters for test/parity/combine-oracle.py to load with PEFT: node write-for-peft.ts FOLDER
import { join } from 'node:path'
import { combineModules } from '../../compiler/combine/combine.ts'
import type { CombineOptions } from '../../compiler/combine/options.ts'
import { writePeft } from '../../compiler/combine/write-peft.ts'
import { stageFolder } from '../../runtime/disk.ts'
import { oracleInputs, readInfo } from './adapters.ts'

const [folder] = process.argv.slice(2)
if (folder === undefined) throw new Error('give the folder to write into')
const { cases, seed } = readInfo('peft')

// Folder names are PEFT's cases, so that the script can ask PEFT for the same combination.
const WRITTEN: Record<string, CombineOptions> = {
  cat: {},
  svd: { method: 'svd' },
  linear: { method: 'linear', peftCompat: true },
  dare_linear: { method: 'dare_linear', seed, peftCompat: true },
  'ties_svd.total': { method: 'ties_svd', peftCompat: true },
}

for (const [name, options] of Object.entries(WRITTEN)) {
  const { adapters, svd_rank: rank, density } = cases[name]!
  const inputs = await oracleInputs(adapters)
  const result = combineModules(inputs, { ...options, ...(rank && { rank }), ...(density && { density }) })
  const staged = await stageFolder(join(folder, name))
  const weights = Object.fromEntries(inputs.map((input) => [input.name, input.weight]))
  await writePeft(result, { baseModelNameOrPath: 'sidepath/tiny-base', taskType: 'CAUSAL_LM', weights }, staged)
  await staged.commit()
}
