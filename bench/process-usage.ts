// Loaded before a measured process: says what it used when it ends.
process.on('exit', () => {
  const { maxRSS, userCPUTime, systemCPUTime } = process.resourceUsage()
  const usage = { peakMib: maxRSS / 1024, cpuSeconds: (userCPUTime + systemCPUTime) / 1e6 }
  process.stderr.write(`${JSON.stringify(usage)}\n`)
})
