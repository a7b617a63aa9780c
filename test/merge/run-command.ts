// One verb in a process of its own, as cli/main.ts runs it: `node run-command.ts VERB OPTIONS-AS-JSON`.
import { fail } from '../../cli/fail.ts'
import { type MergeOptions, mergeCheckpointCommand, unmergeCheckpointCommand } from '../../cli/merge.ts'

const [verb, json = '{}'] = process.argv.slice(2)
const options = JSON.parse(json) as MergeOptions
const command = verb === 'unmerge' ? unmergeCheckpointCommand : mergeCheckpointCommand
await command(options).catch(fail)
