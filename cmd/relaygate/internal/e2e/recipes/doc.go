// Package recipes holds no code but tests: the recipes of relaygate.toml(5), taken
// out of the manual as they stand there, with a real Exim and a real Postfix on
// their default configuration. Members relay, strangers do not, and the second
// lock holds with the gate's table gone. And firewalld, which has a ruleset of its
// own, leaves the gate alone, and Docker leads nobody around it.
//
// The tests need root, the servers, and the build tag e2e: `make e2e` sees to
// all of it.
package recipes
