module github.com/twiliosync/twiliosync-go/cmd/twiliosync

go 1.26

require (
	github.com/spf13/cobra v1.10.2
	github.com/stretchr/testify v1.12.1
	github.com/twiliosync/twiliosync-go v0.0.0-00010101000000-000000000000
	github.com/twiliosync/twiliosync-go/emulator v0.0.0-00010101000000-000000000000
)

require (
	github.com/coder/websocket v1.8.15 // indirect
	github.com/google/go-querystring v1.2.0 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)

replace (
	github.com/twiliosync/twiliosync-go => ../../
	github.com/twiliosync/twiliosync-go/emulator => ../../emulator
)
